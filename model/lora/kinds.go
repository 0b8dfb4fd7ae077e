package lora

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// Kinds of changes.
const (
	KindLoRA = "LoRA"
	KindMid  = "LoCon with a middle part"
	KindLoHa = "LoHa"
	KindLoKr = "LoKr"
	KindFull = "full difference"
)

// Change is what a file does to one layer of a model.
type Change struct {
	Component string // ldm.UNet, ldm.Text or ldm.Text2
	Path      string // module path of the layer
	Kind      string
	DoRA      bool    // the result's rows or columns are given learned lengths
	Module    *Module // of KindLoRA without more: what other kinds cannot be written as

	delta     func() (dense, error) // the weight's change, scaled; nil where it has none
	magnitude *Matrix
	rows      bool      // magnitude is of the weight's rows, whatever its shape
	bias      []float32 // change of the layer's bias
}

// dense is a change, row-major, of a weight of so many rows and columns; the kernel counts to the columns.
type dense struct {
	rows, columns int
	data          []float32
}

func (a dense) general() blas32.General {
	return blas32.General{Rows: a.rows, Cols: a.columns, Stride: a.columns, Data: a.data}
}

func product(scale float64, a, b dense) (dense, error) {
	if a.columns != b.rows || a.rows == 0 || b.columns == 0 || a.columns == 0 {
		return dense{}, fmt.Errorf("factors of %d×%d and %d×%d do not fit each other", a.rows, a.columns, b.rows, b.columns)
	}
	out := dense{a.rows, b.columns, make([]float32, a.rows*b.columns)}
	blas32.Gemm(blas.NoTrans, blas.NoTrans, float32(scale), a.general(), b.general(), 0, out.general())
	return out, nil
}

// asMatrix takes the first dimension as rows and all others as columns.
func (m Matrix) asMatrix() (dense, error) {
	if len(m.Shape) < 2 || m.Shape[0] == 0 {
		return dense{}, fmt.Errorf("a factor has the shape %v, want a matrix", m.Shape)
	}
	return dense{m.Shape[0], len(m.Data) / m.Shape[0], m.Data}, nil
}

// tucker is Σ_ab core[a, b, …]·first[a, p]·second[b, q], which is [p, q, …]: a convolution of low rank in its channels and
// its kernel, as LyCORIS calls it.
func tucker(core, first, second Matrix) (dense, error) {
	if len(core.Shape) < 3 || len(first.Shape) < 2 || len(second.Shape) < 2 || core.Shape[0] != first.Shape[0] || core.Shape[1] != second.Shape[0] {
		return dense{}, fmt.Errorf("a core of %v does not fit factors of %v and %v", core.Shape, first.Shape, second.Shape)
	}
	a, b := core.Shape[0], core.Shape[1]
	p, q := len(first.Data)/max(a, 1), len(second.Data)/max(b, 1)
	kernel := len(core.Data) / max(a*b, 1)
	if a*b*kernel*p*q == 0 {
		return dense{}, fmt.Errorf("a core of %v is empty", core.Shape)
	}
	// First over b: for each a, [q, b]·[b, kernel].
	inner := make([]float32, a*q*kernel)
	for i := range a {
		blas32.Gemm(blas.Trans, blas.NoTrans, 1, blas32.General{Rows: b, Cols: q, Stride: q, Data: second.Data},
			blas32.General{Rows: b, Cols: kernel, Stride: kernel, Data: core.Data[i*b*kernel:]},
			0, blas32.General{Rows: q, Cols: kernel, Stride: kernel, Data: inner[i*q*kernel:]})
	}
	out := dense{p, q * kernel, make([]float32, p*q*kernel)}
	blas32.Gemm(blas.Trans, blas.NoTrans, 1, blas32.General{Rows: a, Cols: p, Stride: p, Data: first.Data},
		blas32.General{Rows: a, Cols: q * kernel, Stride: q * kernel, Data: inner}, 0, out.general())
	return out, nil
}

// kronecker is the product of every value of a with all of b, which keeps b's kernel.
func kronecker(scale float64, a, b Matrix) (dense, error) {
	if len(a.Shape) != 2 || len(b.Shape) < 2 || len(a.Data)*len(b.Data) == 0 {
		return dense{}, fmt.Errorf("factors of %v and %v have no Kronecker product", a.Shape, b.Shape)
	}
	kernel := len(b.Data) / (b.Shape[0] * b.Shape[1])
	rows, columns := a.Shape[0]*b.Shape[0], a.Shape[1]*b.Shape[1]*kernel
	out := dense{rows, columns, make([]float32, rows*columns)}
	for i := range a.Shape[0] {
		for j := range a.Shape[1] {
			f := float32(float64(a.Data[i*a.Shape[1]+j]) * scale)
			width := b.Shape[1] * kernel
			for k := range b.Shape[0] {
				to := out.data[(i*b.Shape[0]+k)*columns+j*width:][:width]
				for l, v := range b.Data[k*width : (k+1)*width] {
					to[l] = f * v
				}
			}
		}
	}
	return out, nil
}

// apply changes a weight of the given shape by strength times the change, in place.
func (c Change) apply(weight []float32, shape []int, strength float64) error {
	var delta dense
	if c.delta != nil {
		var err error
		if delta, err = c.delta(); err != nil {
			return fmt.Errorf("module %s: %w", c.Path, err)
		}
		if len(delta.data) != len(weight) || len(shape) > 1 && delta.rows != shape[0] {
			return fmt.Errorf("module %s: its change has %d×%d values, but the layer's weight has the shape %v: the LoRA was made for another model", c.Path, delta.rows, delta.columns, shape)
		}
	}
	if c.magnitude == nil {
		for i, v := range delta.data {
			weight[i] += float32(strength * float64(v))
		}
		return nil
	}
	whole := slices.Clone(weight)
	for i, v := range delta.data {
		whole[i] += v
	}
	if err := c.rescale(whole, shape); err != nil {
		return err
	}
	for i, v := range whole {
		weight[i] += float32(strength * float64(v-weight[i]))
	}
	return nil
}

// rescale gives each row of a weight, or each of its input channels, its learned length: DoRA (Liu et al., arXiv
// 2402.09353), the norm being of the changed weight.
func (c Change) rescale(weight []float32, shape []int) error {
	if len(shape) < 2 || shape[0] == 0 || shape[1] == 0 {
		return fmt.Errorf("module %s: DoRA of a weight of shape %v", c.Path, shape)
	}
	rows, inputs := shape[0], shape[1]
	kernel := len(weight) / (rows * inputs)
	byRow := c.rows || len(c.magnitude.Shape) > 0 && c.magnitude.Shape[0] == rows
	n := inputs
	if byRow {
		n = rows
	}
	if len(c.magnitude.Data) != n {
		return fmt.Errorf("module %s: its dora_scale has the shape %v, which is of no side of a weight of shape %v", c.Path, c.magnitude.Shape, shape)
	}
	at := func(i int) int {
		if byRow {
			return i / (inputs * kernel)
		}
		return i / kernel % inputs
	}
	norms := make([]float64, n)
	for i, v := range weight {
		norms[at(i)] += float64(v) * float64(v)
	}
	for i, v := range weight {
		k := at(i)
		if norms[k] > 0 {
			weight[i] = float32(float64(v) * float64(c.magnitude.Data[k]) / math.Sqrt(norms[k]))
		}
	}
	return nil
}
