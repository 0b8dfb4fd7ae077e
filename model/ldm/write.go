package ldm

import (
	"fmt"
	"strings"

	"fewstep/model/weights"
)

// Tensors gives the tensors of the single file that holds the given components, whose names are diffusers'. Their data
// is the components' own; the sources must stay open until it has been written.
func Tensors(components map[string]weights.Source) ([]weights.Tensor, error) {
	var all []weights.Tensor
	for _, component := range Components {
		src, ok := components[component]
		if !ok {
			continue
		}
		tensors, err := toLDM(component, src)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", component, err)
		}
		all = append(all, tensors...)
	}
	return all, nil
}

// UNetTensors are a UNet's tensors under LDM's names without their prefix.
func UNetTensors(src weights.Source) ([]weights.Tensor, error) {
	tensors, err := toLDM(UNet, src)
	for i := range tensors {
		tensors[i].Name = strings.TrimPrefix(tensors[i].Name, prefixes[UNet])
	}
	return tensors, err
}

func toLDM(component string, src weights.Source) ([]weights.Tensor, error) {
	names := src.Names()
	var translate func(string) (string, bool)
	switch component {
	case UNet:
		translate = namesOfDiffusers(names).toLDM
	case VAE:
		v := vaeNamesOf(names)
		translate = func(name string) (string, bool) { return v.translate(name, ldm) }
	case Text:
		translate = func(name string) (string, bool) { return name, strings.HasPrefix(name, "text_model.") }
	case Text2:
		translate = func(name string) (string, bool) { return openTranslate(name, ldm) }
	}
	var out []weights.Tensor
	stacks := map[string]*[3]weights.Tensor{}
	for _, name := range names {
		if strings.HasSuffix(name, ".position_ids") {
			continue // a buffer that older versions of transformers saved
		}
		t, err := src.Tensor(name)
		if err != nil {
			return nil, err
		}
		if component == Text2 {
			if whole, place, ok := partOf(name); ok {
				if stacks[whole] == nil {
					stacks[whole] = new([3]weights.Tensor)
				}
				stacks[whole][place] = t
				continue
			}
			if name == projection {
				if t, err = t.Transposed(); err != nil {
					return nil, err
				}
				t.Name = prefixes[component] + openProjection
				out = append(out, t)
				continue
			}
		}
		other, ok := translate(name)
		if !ok {
			return nil, fmt.Errorf("tensor %s has no place in SDXL's single-file layout", name)
		}
		if component == VAE && isAttention(name) && len(t.Shape) == 2 {
			if t, err = t.Reshape([]int{t.Shape[0], t.Shape[1], 1, 1}); err != nil {
				return nil, err
			}
		}
		t.Name = prefixes[component] + other
		out = append(out, t)
	}
	for name, parts := range stacks {
		for i, p := range parts {
			if p.Name == "" {
				return nil, fmt.Errorf("the %s that belongs into %s is missing", strings.Trim(fusedParts[i], "."), name)
			}
		}
		whole, err := weights.Stacked(prefixes[component]+name, parts[:]...)
		if err != nil {
			return nil, err
		}
		out = append(out, whole)
	}
	return out, nil
}
