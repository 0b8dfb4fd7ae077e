package ldm

import (
	"fmt"
	"strings"

	"fewstep/model/weights"
)

// Tensors gives the tensors of the single file of a form that holds the given components, whose names are diffusers'.
// Their data is the components' own; the sources must stay open until it has been written.
func Tensors(form Form, components map[string]weights.Source) ([]weights.Tensor, error) {
	var all []weights.Tensor
	for _, at := range forms[form] {
		src, ok := components[at.component]
		if !ok {
			continue
		}
		tensors, err := toLDM(at, src)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at.component, err)
		}
		all = append(all, tensors...)
	}
	return all, nil
}

// UNetTensors are a UNet's tensors under LDM's names without their prefix.
func UNetTensors(src weights.Source) ([]weights.Tensor, error) {
	return toLDM(site{component: UNet, names: ldm}, src)
}

func toLDM(at site, src weights.Source) ([]weights.Tensor, error) {
	names, open := src.Names(), isText(at.component) && at.names == ldm
	var translate func(string) (string, bool)
	switch component := at.component; {
	case component == UNet:
		translate = namesOfDiffusers(names).toLDM
	case component == VAE:
		v := vaeNamesOf(names)
		translate = func(name string) (string, bool) { return v.translate(name, ldm) }
	case !open:
		translate = func(name string) (string, bool) { return name, strings.HasPrefix(name, "text_model.") }
	default:
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
		if open {
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
				t.Name = at.prefix + openProjection
				out = append(out, t)
				continue
			}
		}
		other, ok := translate(name)
		if !ok {
			return nil, fmt.Errorf("tensor %s has no place in the single-file layout", name)
		}
		if at.component == VAE && isAttention(name) && len(t.Shape) == 2 {
			if t, err = t.Reshape([]int{t.Shape[0], t.Shape[1], 1, 1}); err != nil {
				return nil, err
			}
		}
		t.Name = at.prefix + other
		out = append(out, t)
	}
	for name, parts := range stacks {
		for i, p := range parts {
			if p.Name == "" {
				return nil, fmt.Errorf("the %s that belongs into %s is missing", strings.Trim(fusedParts[i], "."), name)
			}
		}
		whole, err := weights.Stacked(at.prefix+name, parts[:]...)
		if err != nil {
			return nil, err
		}
		out = append(out, whole)
	}
	return out, nil
}
