package export

import (
	"fmt"
	"strings"

	"fewstep/distill"
	"fewstep/model/lora"
	"fewstep/model/weights"
)

// tensorsOf gives the tensors of an export file, converted one at a time while they are written.
func tensorsOf(f weights.Source, c *distill.Config, s distill.Step, to weights.DType) ([]weights.Tensor, error) {
	if IsLoRA(s) {
		modules, err := Modules(f, c.LoRA.Alpha)
		if err != nil {
			return nil, err
		}
		return lora.Tensors(modules, to)
	}
	return converted(f, to)
}

// converted gives every tensor of f in another element type.
func converted(f weights.Source, to weights.DType) ([]weights.Tensor, error) {
	var out []weights.Tensor
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, downSuffix) || strings.HasSuffix(name, upSuffix) {
			return nil, fmt.Errorf("tensor %s: an adapter among the weights of a full model", name)
		}
		out = append(out, t.As(to))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it holds no tensors")
	}
	return out, nil
}

const (
	downSuffix = ".lora_down"
	upSuffix   = ".lora_up"
)

// Modules reads the adapters of a LoRA phase's result, "<module>.weight.lora_down" [rank, in(, k, k)] and
// "<module>.weight.lora_up" [out, rank(, 1, 1)]; the scale is alpha / rank.
func Modules(f weights.Source, alpha float64) ([]lora.Module, error) {
	halves := map[string]lora.Matrix{}
	var modules []lora.Module
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		v, err := t.Float32()
		if err != nil {
			return nil, err
		}
		halves[name] = lora.Matrix{Shape: t.Shape, Data: v}
		if path, ok := strings.CutSuffix(name, ".weight"+downSuffix); ok {
			modules = append(modules, lora.Module{Path: path, Alpha: alpha})
		} else if !strings.HasSuffix(name, ".weight"+upSuffix) {
			return nil, fmt.Errorf("tensor %s: not an adapter; a LoRA phase's result holds adapters alone", name)
		}
	}
	for i := range modules {
		m := &modules[i]
		m.Down = halves[m.Path+".weight"+downSuffix]
		up, ok := halves[m.Path+".weight"+upSuffix]
		if !ok {
			return nil, fmt.Errorf("module %s: it has %s and no %s", m.Path, downSuffix, upSuffix)
		}
		m.Up = up
		if len(m.Down.Shape) > 0 {
			m.Rank = m.Down.Shape[0]
		}
		if err := m.Validate(); err != nil {
			return nil, err
		}
	}
	if 2*len(modules) != len(halves) {
		return nil, fmt.Errorf("%d tensors make %d adapters: one has no %s", len(halves), len(modules), downSuffix)
	}
	return modules, nil
}
