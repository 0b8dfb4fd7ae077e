package lora

import (
	"fmt"
	"slices"

	"fewstep/model/ldm"
	"fewstep/model/weights"
)

// Write saves modules as a safetensors file with kohya's names, which ComfyUI, A1111 and diffusers load: per module
// lora_down.weight, lora_up.weight and alpha, a scalar (shape []). layers are those of the whole UNet, by which blocks are
// numbered. dtype is F16 when empty; an alpha that it cannot hold exactly is written as F32. The file is written
// atomically and streamed.
//
// All modules get the most frequent alpha; where a module has another one, its up is rescaled, so that its change stays
// the same. diffusers (0.42) loses the alphas of attention layers when they differ within a file.
func Write(path string, modules []Module, blocks Blocks, layers []string, dtype weights.DType, metadata map[string]string) error {
	tensors, err := Tensors(modules, blocks, layers, dtype)
	if err != nil {
		return fmt.Errorf("cannot write LoRA %s: %w", path, err)
	}
	return weights.Save(path, tensors, weights.Options{Metadata: metadata, Finite: true})
}

// Tensors are what Write saves, for weights.DataHash.
func Tensors(modules []Module, blocks Blocks, layers []string, dtype weights.DType) ([]weights.Tensor, error) {
	return named(modules, blocks.namer(layers), dtype)
}

// named are the tensors of modules under the names that name gives.
func named(modules []Module, name func(path string) string, dtype weights.DType) ([]weights.Tensor, error) {
	if dtype == "" {
		dtype = weights.F16
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("there are no modules")
	}
	common := commonAlpha(modules)
	tensors := make([]weights.Tensor, 0, 3*len(modules))
	for _, m := range modules {
		if err := m.Validate(); err != nil {
			return nil, err
		}
		name := name(m.Path)
		tensors = append(tensors,
			encoded(name+".lora_down.weight", m.Down, 1, dtype),
			encoded(name+".lora_up.weight", m.Up, m.Alpha/common, dtype),
			alphaTensor(name+".alpha", common, dtype))
	}
	return tensors, nil
}

// textName is kohya's prefix of a text encoder: a model's only one is not numbered.
func textName(component string, layers Layers) string {
	switch {
	case component == ldm.Text2:
		return "lora_te2_"
	case layers[ldm.Text2] == nil:
		return "lora_te_"
	}
	return "lora_te1_"
}

// Tensors are the adapter's plain LoRA under kohya's names, text encoders included. Another kind of change is an error.
func (a *Adapter) Tensors(blocks Blocks, layers Layers, dtype weights.DType) ([]weights.Tensor, error) {
	modules, err := a.Modules()
	if err != nil {
		return nil, err
	}
	tensors, err := Tensors(modules, blocks, layers[ldm.UNet], dtype)
	if err != nil {
		return nil, err
	}
	for _, component := range []string{ldm.Text, ldm.Text2} {
		var modules []Module
		for _, c := range a.Changes {
			switch {
			case c.Component != component:
			case c.Module == nil:
				return nil, fmt.Errorf("module %s of %s: %s is no plain LoRA", c.Path, component, c.kind())
			default:
				modules = append(modules, *c.Module)
			}
		}
		if len(modules) == 0 {
			continue
		}
		text, err := named(modules, func(path string) string { return textName(component, layers) + flat(path) }, dtype)
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, text...)
	}
	return tensors, nil
}

// commonAlpha is the most frequent alpha, the first of several.
func commonAlpha(modules []Module) float64 {
	count := map[float64]int{}
	best := modules[0].Alpha
	for _, m := range modules {
		count[m.Alpha]++
	}
	for _, m := range modules {
		if count[m.Alpha] > count[best] {
			best = m.Alpha
		}
	}
	return best
}

func encoded(name string, m Matrix, factor float64, dtype weights.DType) weights.Tensor {
	return weights.Tensor{
		Name: name, DType: dtype, Shape: slices.Clone(m.Shape),
		Fill: func() ([]byte, error) {
			values := m.Data
			if factor != 1 {
				values = make([]float32, len(m.Data))
				for i, v := range m.Data {
					values[i] = float32(float64(v) * factor)
				}
			}
			return weights.Encode(values, dtype)
		},
	}
}

func alphaTensor(name string, alpha float64, dtype weights.DType) weights.Tensor {
	t := weights.FromFloat32(name, []int{}, []float32{float32(alpha)}, dtype)
	if v, err := t.Float32(); err == nil && float64(v[0]) == alpha {
		return t
	}
	return weights.FromFloat32(name, []int{}, []float32{float32(alpha)}, weights.F32)
}
