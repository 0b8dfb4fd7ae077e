package bundle

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/model/clip"
	"fewstep/model/ldm"
	"fewstep/model/unet"
	"fewstep/model/vae"
	"fewstep/model/weights"
)

// Mismatch says where a component's tensors are not those of its config.
type Mismatch struct {
	Component string   `json:"component"`
	Missing   []string `json:"missing,omitempty"`
	Surplus   []string `json:"surplus,omitempty"`
	Shapes    []string `json:"shapes,omitempty"` // "tensor x has the shape [1], the config's is [2]"
}

func (m *Mismatch) Error() string {
	var parts []string
	if n := len(m.Missing); n > 0 {
		parts = append(parts, fmt.Sprintf("%d tensors are missing (%s)", n, few(m.Missing)))
	}
	if n := len(m.Shapes); n > 0 {
		parts = append(parts, few(m.Shapes))
	}
	if n := len(m.Surplus); n > 0 {
		parts = append(parts, fmt.Sprintf("%d tensors have no place in the model (%s)", n, few(m.Surplus)))
	}
	return m.Component + ": " + strings.Join(parts, "; ")
}

func few(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// Check compares a component's tensors, by name and shape, with what its config asks for. The error wraps a *Mismatch
// where they differ.
func (b *Bundle) Check(component string) error {
	name := path.Join(component, "config.json")
	config, err := b.File(name)
	if err != nil {
		return err
	}
	src, err := b.Weights(component)
	if err != nil {
		return err
	}
	return Check(component, src, config, filepath.Join(b.Path, filepath.FromSlash(name)))
}

// Check compares tensors with what the config.json of a component asks for. where is the config's path, for messages.
func Check(component string, src weights.Source, config []byte, where string) error {
	want, err := expected(component, config, where)
	if err != nil {
		return err
	}
	if m := compare(component, src, want); m != nil {
		return fmt.Errorf("%s: %w", where, m)
	}
	return nil
}

func compare(component string, src weights.Source, want map[string][]int) *Mismatch {
	m := &Mismatch{Component: component}
	for _, name := range src.Names() {
		t, err := src.Tensor(name)
		shape, ok := want[name]
		switch {
		case err != nil:
			m.Shapes = append(m.Shapes, err.Error())
		case !ok && strings.HasSuffix(name, ".position_ids"): // a buffer of older transformers
		case !ok:
			m.Surplus = append(m.Surplus, name)
		case !slices.Equal(t.Shape, shape):
			m.Shapes = append(m.Shapes, fmt.Sprintf("tensor %s has the shape %v, the config's is %v", name, t.Shape, shape))
		}
		delete(want, name)
	}
	m.Missing = slices.Sorted(maps.Keys(want))
	if len(m.Missing)+len(m.Surplus)+len(m.Shapes) == 0 {
		return nil
	}
	return m
}

// Own hides, of a component's tensors under diffusers' names, those of modules that the config's network does not have
// and that no part of it is named like, such as an IP-Adapter's in a UNet, and lists them. Check judges what is left.
func Own(component string, src weights.Source, config []byte, where string) (weights.Source, []string) {
	want, err := expected(component, config, where)
	if err != nil {
		return src, nil // Check tells
	}
	return OwnOf(src, want)
}

// OwnOf is Own for a network whose tensors have the given names.
func OwnOf[V any](src weights.Source, want map[string]V) (weights.Source, []string) {
	elements, modules := map[string]bool{}, map[string]bool{}
	for name := range want {
		for _, e := range strings.Split(name, ".") {
			elements[e] = true
		}
		modules[name[:strings.LastIndexByte(name, '.')]] = true
	}
	hidden := hiding{src, map[string]bool{}}
	for _, name := range src.Names() {
		dot := strings.LastIndexByte(name, '.')
		if _, ok := want[name]; ok || dot < 0 || modules[name[:dot]] {
			continue // its own, or one that changes what a module of the network is
		}
		if slices.ContainsFunc(strings.Split(name, "."), func(e string) bool {
			return !elements[e] && strings.ContainsFunc(e, func(r rune) bool { return r < '0' || r > '9' })
		}) {
			hidden.names[name] = true
		}
	}
	if len(hidden.names) == 0 {
		return src, nil
	}
	return hidden, slices.Sorted(maps.Keys(hidden.names))
}

// hiding is a source without some of its tensors.
type hiding struct {
	weights.Source
	names map[string]bool
}

func (h hiding) Names() []string {
	return slices.DeleteFunc(h.Source.Names(), func(name string) bool { return h.names[name] })
}

// expected are the tensors that a component's config asks for.
func expected(component string, raw []byte, where string) (map[string][]int, error) {
	switch component {
	case ldm.UNet:
		c, err := unet.ParseConfig(raw, where)
		if err != nil {
			return nil, err
		}
		return c.Tensors(), nil
	case ldm.VAE:
		c, err := vae.ParseConfig(raw, where)
		if err != nil {
			return nil, err
		}
		return c.Tensors(), nil
	}
	c, err := clip.ParseTextConfig(raw, where)
	if err != nil {
		return nil, err
	}
	return c.Tensors(), nil
}

// CheckAll is Check for every component that is there; it stops at the first error.
func (b *Bundle) CheckAll() error {
	for _, component := range b.Components() {
		if !b.Has(component) {
			continue
		}
		if err := b.Check(component); err != nil {
			return err
		}
	}
	return nil
}
