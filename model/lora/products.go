package lora

import (
	"fmt"
)

// loha is LyCORIS's Hadamard product: (w1_a·w1_b)∘(w2_a·w2_b), either with a core for a kernel.
func (r reader) loha(c *Change, parts map[part]string, factor float64) error {
	c.Kind = KindLoHa
	factors, err := r.all(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
	if err != nil {
		return err
	}
	rank := 0
	if shape := factors[1].Shape; len(shape) > 0 {
		rank = shape[0]
	}
	value, err := r.alpha(c.Path, parts, rank)
	if err != nil {
		return err
	}
	scale := value / float64(rank) * factor
	if err := finiteScale(scale); err != nil {
		return err
	}
	var cores [2]*Matrix
	for i, p := range []part{"hada_t1", "hada_t2"} {
		if parts[p] != "" {
			m, err := r.matrix(parts[p])
			if err != nil {
				return err
			}
			cores[i] = &m
		}
	}
	c.delta = func() (dense, error) {
		var both [2]dense
		for i := range both {
			var err error
			if both[i], err = lowRank(cores[i], factors[2*i], factors[2*i+1]); err != nil {
				return dense{}, err
			}
		}
		if both[0].rows != both[1].rows || len(both[0].data) != len(both[1].data) {
			return dense{}, fmt.Errorf("its two products are of %d×%d and %d×%d", both[0].rows, both[0].columns, both[1].rows, both[1].columns)
		}
		for i, v := range both[1].data {
			both[0].data[i] *= v
		}
		return both[0].times(scale), nil
	}
	_, err = c.delta()
	return err
}

// lowRank is a·b, or with a core for a kernel Σ core·a·b.
func lowRank(core *Matrix, a, b Matrix) (dense, error) {
	if core != nil {
		return tucker(*core, a, b)
	}
	x, err := a.asMatrix()
	if err != nil {
		return dense{}, err
	}
	y, err := b.asMatrix()
	if err != nil {
		return dense{}, err
	}
	return product(1, x, y)
}

// lokr is LyCORIS's Kronecker product w1⊗w2, either of which may be of low rank, the second with a core for a kernel.
func (r reader) lokr(c *Change, parts map[part]string, factor float64) error {
	c.Kind = KindLoKr
	rank := 0
	side := func(number string) (Matrix, error) {
		if whole := part("lokr_w" + number); parts[whole] != "" {
			return r.matrix(parts[whole])
		}
		factors, err := r.all(parts, part("lokr_w"+number+"_a"), part("lokr_w"+number+"_b"))
		if err != nil {
			return Matrix{}, err
		}
		if len(factors[1].Shape) > 0 {
			rank = factors[1].Shape[0]
		}
		var core *Matrix
		kernel := []int{}
		if name := parts[part("lokr_t"+number)]; name != "" {
			m, err := r.matrix(name)
			if err != nil {
				return m, err
			}
			core = &m
			if len(m.Shape) > 2 {
				kernel = m.Shape[2:]
			}
		} else if len(factors[1].Shape) > 2 {
			kernel = factors[1].Shape[2:]
		}
		d, err := lowRank(core, factors[0], factors[1])
		if err != nil {
			return Matrix{}, err
		}
		n := 1
		for _, k := range kernel {
			n *= k
		}
		if n == 0 || d.columns%n != 0 {
			return Matrix{}, fmt.Errorf("a factor of %d columns has no kernel of %v", d.columns, kernel)
		}
		return Matrix{append([]int{d.rows, d.columns / n}, kernel...), d.data}, nil
	}
	first, err := side("1")
	if err != nil {
		return err
	}
	second, err := side("2")
	if err != nil {
		return err
	}
	scale := 1.0
	if value, ok := r.config.scale(c.Path, rank); rank > 0 {
		if value, err = r.alpha(c.Path, parts, rank); err != nil {
			return err
		}
		scale = value / float64(rank)
	} else if ok && parts[alpha] == "" {
		scale = value // PEFT scales whole factors too, LyCORIS does not
	}
	if scale *= factor; true {
		if err := finiteScale(scale); err != nil {
			return err
		}
	}
	c.delta = func() (dense, error) { return kronecker(scale, first, second) }
	_, err = c.delta()
	return err
}
