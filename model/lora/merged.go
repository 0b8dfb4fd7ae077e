package lora

import (
	"errors"
	"fmt"
	"strings"

	"fewstep/model/weights"
)

// Merged is base with the modules' changes, times strength, added to its layers: in f32, each time a tensor is asked
// for, and rounded once to the type to, or to the base's own where that is empty. Every module must fit a layer of base.
// Closing it does nothing; base must stay open.
//
// It is what diffusers calls fuse_lora with a lora_scale.
func Merged(base weights.Source, modules []Module, strength float64, to weights.DType) (weights.Source, error) {
	m := merged{Source: base, changes: map[string][]changeOf{}, to: to}
	for _, module := range modules {
		if err := module.Validate(); err != nil {
			return nil, err
		}
		module.Alpha *= strength
		m.add(module, func() (Module, error) { return module, nil })
	}
	return m.checked(modules)
}

// Merged is base, a component's weights, with the changes that the adapter has for it, as the function Merged does.
func (a *Adapter) Merged(component string, base weights.Source, strength float64, to weights.DType) (weights.Source, error) {
	m := merged{Source: base, changes: map[string][]changeOf{}, to: to}
	var plain []Module
	for _, c := range a.Changes {
		if c.Component != component {
			continue
		}
		if c.Module != nil {
			module := *c.Module
			plain = append(plain, module)
			module.Alpha *= strength
			m.add(module, func() (Module, error) { return module, nil })
			continue
		}
		if strength == 0 {
			continue
		}
		if c.delta != nil || c.magnitude != nil {
			m.changes[c.Path+".weight"] = append(m.changes[c.Path+".weight"], func(values []float32, shape []int) error {
				return c.apply(values, shape, strength)
			})
		}
		if c.bias != nil {
			name := c.Path + ".bias"
			t, err := base.Tensor(name)
			if err != nil || t.Elements() != len(c.bias) {
				return nil, fmt.Errorf("module %s: it changes a bias of %d values, which the layer does not have", c.Path, len(c.bias))
			}
			m.changes[name] = append(m.changes[name], func(values []float32, _ []int) error {
				for i, v := range c.bias {
					values[i] += float32(strength * float64(v))
				}
				return nil
			})
		}
	}
	return m.checked(plain)
}

// Has says whether the adapter changes a component.
func (a *Adapter) Has(component string) bool {
	for _, c := range a.Changes {
		if c.Component == component {
			return true
		}
	}
	return false
}

// changeOf changes the values of a tensor of the given shape in place.
type changeOf func(values []float32, shape []int) error

type merged struct {
	weights.Source
	changes map[string][]changeOf // by tensor
	to      weights.DType
}

// add puts a module, read when it is needed, over its layer; one whose alpha is 0 changes nothing.
func (m *merged) add(shapes Module, read func() (Module, error)) {
	if shapes.Alpha == 0 {
		return
	}
	name := shapes.Path + ".weight"
	m.changes[name] = append(m.changes[name], func(values []float32, shape []int) error {
		module, err := read()
		if err != nil {
			return err
		}
		return Merge(values, shape, module)
	})
}

// checked is the merged source, if its base has every layer that is changed, and plain modules fit theirs.
func (m merged) checked(modules []Module) (weights.Source, error) {
	shapes := map[string][]int{}
	for _, name := range m.Source.Names() {
		if path, ok := strings.CutSuffix(name, ".weight"); ok {
			t, err := m.Source.Tensor(name)
			if err != nil {
				return nil, err
			}
			shapes[path] = t.Shape
		}
	}
	if err := CheckTargets(modules, shapes); err != nil {
		return nil, err
	}
	for name := range m.changes {
		if path, ok := strings.CutSuffix(name, ".weight"); ok && shapes[path] == nil {
			return nil, fmt.Errorf("module %s: the model has no such layer", path)
		}
	}
	return m, nil
}

func (m merged) Close() error { return nil }

func (m merged) Tensor(name string) (weights.Tensor, error) {
	base, err := m.Source.Tensor(name)
	if err != nil || len(m.changes[name]) == 0 {
		return base.As(m.to), err
	}
	to := m.to
	if to == "" {
		to = base.DType
	}
	return weights.Tensor{Name: name, DType: to, Shape: base.Shape, Fill: func() ([]byte, error) {
		values, err := base.Float32()
		if err != nil {
			return nil, err
		}
		for _, change := range m.changes[name] {
			if err := change(values, base.Shape); err != nil {
				return nil, err
			}
		}
		for i, v := range values {
			if v-v != 0 {
				return nil, fmt.Errorf("element %d is %g after the merge: %w", i, v, errNotFinite)
			}
		}
		return weights.Encode(values, to)
	}}, nil
}

var errNotFinite = errors.New("base or LoRA hold values that are not finite, or too large together")

// AllLayers are the module paths of a component's layers that an adapter of any kind can change, norms among them.
func AllLayers(src weights.Source) (paths []string) {
	for _, name := range src.Names() {
		if path, ok := strings.CutSuffix(name, ".weight"); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

// UNetLayers are the module paths of the layers in a UNet with diffusers' names that a LoRA can adapt, linear and
// convolution: what Read wants to know of the model.
func UNetLayers(unet weights.Source) ([]string, error) {
	var paths []string
	for _, name := range unet.Names() {
		t, err := unet.Tensor(name)
		if err != nil {
			return nil, err
		}
		if path, ok := strings.CutSuffix(name, ".weight"); ok && len(t.Shape) > 1 {
			paths = append(paths, path)
		}
	}
	return paths, nil
}
