package lora

import (
	"fmt"
	"math"
	"strings"

	"fewstep/model/weights"
)

// reader makes changes of a file's tensors.
type reader struct {
	f      *weights.File
	config adapterConfig
	report *Adapter
}

func (r reader) change(component, path string, parts map[part]string) (Change, error) {
	c := Change{Component: component, Path: path}
	has := func(p part) bool { return parts[p] != "" }
	begins := func(prefix string) bool {
		for p := range parts {
			if strings.HasPrefix(string(p), prefix) {
				return true
			}
		}
		return false
	}
	factor := 1.0
	if has(scalar) {
		var err error
		if factor, err = r.number(parts[scalar]); err != nil {
			return c, err
		}
	}
	var err error
	switch {
	case begins("hada_"):
		err = r.loha(&c, parts, factor)
	case begins("lokr_"):
		err = r.lokr(&c, parts, factor)
	case has(down) || has(up) || has(mid):
		err = r.lora(&c, parts, factor)
	case has(diff):
		c.Kind = KindFull
		var whole Matrix
		whole, err = r.matrix(parts[diff])
		c.delta = func() (dense, error) {
			rows := 1
			if len(whole.Shape) > 0 {
				rows = whole.Shape[0]
			}
			return dense{rows, len(whole.Data) / max(rows, 1), whole.Data}, nil
		}
	case has(diffBias):
		c.Kind = KindFull
	case has(magnitude):
		err = fmt.Errorf("it has only %s, no down and up: the file is incomplete", parts[magnitude])
	default:
		err = fmt.Errorf("it has only %s, no down and up: the file is incomplete", parts[alpha])
	}
	if err != nil {
		return c, err
	}
	if has(magnitude) {
		m, err := r.matrix(parts[magnitude])
		if err != nil {
			return c, err
		}
		c.DoRA, c.magnitude, c.Module = true, &m, nil
		c.rows = strings.Contains(parts[magnitude], "lora_magnitude_vector")
	}
	if has(diffBias) {
		m, err := r.matrix(parts[diffBias])
		if err != nil {
			return c, err
		}
		c.bias, c.Module = m.Data, nil
	}
	return c, nil
}

func (r reader) lora(c *Change, parts map[part]string, factor float64) error {
	c.Kind = KindLoRA
	m := Module{Path: c.Path}
	var err error
	if m.Down, err = r.half(parts, down); err != nil {
		return err
	}
	if m.Up, err = r.half(parts, up); err != nil {
		return err
	}
	if len(m.Down.Shape) > 0 {
		m.Rank = m.Down.Shape[0]
	}
	if m.Alpha, err = r.alpha(c.Path, parts, m.Rank); err != nil {
		return err
	}
	m.Alpha *= factor
	if parts[upBias] != "" {
		bias, err := r.matrix(parts[upBias])
		if err != nil {
			return err
		}
		c.bias = make([]float32, len(bias.Data))
		for i, v := range bias.Data {
			c.bias[i] = float32(float64(v) * m.Scale())
		}
	}
	if parts[mid] == "" {
		if err := m.check(); err != nil {
			return err
		}
		if c.bias == nil {
			c.Module = &m
		}
		c.delta = func() (dense, error) {
			_, values, err := Delta(m)
			return dense{m.Up.Shape[0], len(m.Down.Data) / m.Rank, values}, err
		}
		return nil
	}
	c.Kind = KindMid
	core, err := r.matrix(parts[mid])
	if err != nil {
		return err
	}
	up, err := m.Up.asMatrix()
	if err != nil {
		return err
	}
	first := Matrix{[]int{up.columns, up.rows}, transposed(up)}
	if err := finiteScale(m.Scale()); err != nil {
		return err
	}
	c.delta = func() (dense, error) {
		d, err := tucker(core, first, m.Down)
		return d.times(m.Scale()), err
	}
	_, err = c.delta()
	return err
}

func transposed(m dense) []float32 {
	out := make([]float32, len(m.data))
	for i := range m.rows {
		for j := range m.columns {
			out[j*m.rows+i] = m.data[i*m.columns+j]
		}
	}
	return out
}

func (m dense) times(f float64) dense {
	if f != 1 {
		for i, v := range m.data {
			m.data[i] = float32(float64(v) * f)
		}
	}
	return m
}

func finiteScale(scale float64) error {
	if scale == 0 || math.IsNaN(scale) || math.IsInf(scale, 0) {
		return fmt.Errorf("its scale is %g, want a finite value other than 0", scale)
	}
	return nil
}
