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
	for _, module := range modules {
		if err := module.Validate(); err != nil {
			return nil, err
		}
	}
	var changes []change
	for _, module := range modules {
		module.Alpha *= strength
		changes = append(changes, change{module, func() (Module, error) { return module, nil }})
	}
	return mergedOf(base, changes, to)
}

// change is a module that is read when it is needed; its shapes are known before.
type change struct {
	shapes Module
	read   func() (Module, error)
}

func mergedOf(base weights.Source, changes []change, to weights.DType) (weights.Source, error) {
	m := merged{Source: base, changes: map[string][]change{}, to: to}
	shapes := map[string][]int{}
	for _, name := range base.Names() {
		if path, ok := strings.CutSuffix(name, ".weight"); ok {
			t, err := base.Tensor(name)
			if err != nil {
				return nil, err
			}
			shapes[path] = t.Shape
		}
	}
	var modules []Module
	for _, c := range changes {
		modules = append(modules, c.shapes)
	}
	if err := CheckTargets(modules, shapes); err != nil {
		return nil, err
	}
	for _, c := range changes {
		if name := c.shapes.Path + ".weight"; c.shapes.Alpha != 0 {
			m.changes[name] = append(m.changes[name], c)
		}
	}
	return m, nil
}

type merged struct {
	weights.Source
	changes map[string][]change // by tensor
	to      weights.DType
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
		for _, c := range m.changes[name] {
			module, err := c.read()
			if err != nil {
				return nil, err
			}
			if err := Merge(values, base.Shape, module); err != nil {
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

// Layers are the module paths of the layers in a UNet with diffusers' names that a LoRA can adapt, linear and
// convolution: what Read wants to know of the model.
func Layers(unet weights.Source) ([]string, error) {
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
