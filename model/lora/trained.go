package lora

import (
	"fmt"
	"strings"

	"fewstep/model/weights"
)

const (
	downSuffix = ".lora_down"
	upSuffix   = ".lora_up"
)

// Trained reads the adapters of a LoRA phase's result, "<module>.weight.lora_down" [rank, in(, k, k)] and
// "<module>.weight.lora_up" [out, rank(, 1, 1)]; the scale is alpha / rank.
func Trained(f weights.Source, alpha float64) ([]Module, error) {
	halves := map[string]Matrix{}
	var modules []Module
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		v, err := t.Float32()
		if err != nil {
			return nil, err
		}
		halves[name] = Matrix{Shape: t.Shape, Data: v}
		if path, ok := strings.CutSuffix(name, ".weight"+downSuffix); ok {
			modules = append(modules, Module{Path: path, Alpha: alpha})
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
