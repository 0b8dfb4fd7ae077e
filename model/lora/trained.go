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

// Trained are the adapters of a LoRA phase's result, "<module>.weight.lora_down" [rank, in(, k, k)] and
// "<module>.weight.lora_up" [out, rank(, 1, 1)]. They stay in their file, which must be open, until they are asked for.
type Trained struct {
	src     weights.Source
	modules []Module // without data
}

// OpenTrained looks at the names and shapes of such a file; the scale is alpha / rank.
func OpenTrained(src weights.Source, alpha float64) (*Trained, error) {
	t := &Trained{src: src}
	names := src.Names()
	for _, name := range names {
		path, ok := strings.CutSuffix(name, ".weight"+downSuffix)
		if !ok {
			if !strings.HasSuffix(name, ".weight"+upSuffix) {
				return nil, fmt.Errorf("tensor %s: not an adapter; a LoRA phase's result holds adapters alone", name)
			}
			continue
		}
		down, err := src.Tensor(name)
		if err != nil {
			return nil, err
		}
		up, err := src.Tensor(path + ".weight" + upSuffix)
		if err != nil {
			return nil, fmt.Errorf("module %s: it has %s and no %s: %w", path, downSuffix, upSuffix, err)
		}
		m := Module{Path: path, Alpha: alpha, Down: Matrix{Shape: down.Shape}, Up: Matrix{Shape: up.Shape}}
		if len(down.Shape) == 0 || len(up.Shape) == 0 {
			return nil, fmt.Errorf("module %s: %s has the shape %v and %s %v, want matrices", path, downSuffix, down.Shape, upSuffix, up.Shape)
		}
		m.Rank = down.Shape[0]
		t.modules = append(t.modules, m)
	}
	if 2*len(t.modules) != len(names) {
		return nil, fmt.Errorf("%d tensors make %d adapters: one has no %s", len(names), len(t.modules), downSuffix)
	}
	return t, nil
}

// Modules reads all.
func (t *Trained) Modules() ([]Module, error) {
	all := make([]Module, len(t.modules))
	for i, m := range t.modules {
		var err error
		if all[i], err = t.read(m); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Merged is Merged of all, each of which is read when its layer is asked for.
func (t *Trained) Merged(base weights.Source, to weights.DType) (weights.Source, error) {
	m := merged{Source: base, changes: map[string][]changeOf{}, to: to}
	for _, module := range t.modules {
		m.add(module, func() (Module, error) { return t.read(module) })
	}
	return m.checked(t.modules)
}

func (t *Trained) read(m Module) (Module, error) {
	for _, half := range []struct {
		suffix string
		matrix *Matrix
	}{{downSuffix, &m.Down}, {upSuffix, &m.Up}} {
		x, err := t.src.Tensor(m.Path + ".weight" + half.suffix)
		if err != nil {
			return m, err
		}
		if half.matrix.Data, err = x.Finite(); err != nil {
			return m, err
		}
	}
	return m, m.Validate()
}
