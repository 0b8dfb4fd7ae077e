// Package lora reads and writes low-rank adapters of a diffusers UNet and gives
// the weight change they stand for.
//
// A module adapts one linear or convolution layer with weight W to
// W + alpha/rank * up∘down (Hu et al. 2021, arXiv:2106.09685). A convolution's
// down has the layer's kernel and its up is 1×1, as kohya's sd-scripts do it.
package lora

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// Matrix is one half of a module: float32 values, row-major.
type Matrix struct {
	Shape []int
	Data  []float32
}

// Module is the adapter of one layer.
type Module struct {
	Path  string  // diffusers module path, "down_blocks.1.attentions.0.proj_in"
	Down  Matrix  // [rank, in] or [rank, in, kh, kw]
	Up    Matrix  // [out, rank] or [out, rank, 1, 1]
	Alpha float64 // the scale is Alpha / Rank
	Rank  int
}

// Scale is alpha / rank, the factor on up∘down.
func (m Module) Scale() float64 { return m.Alpha / float64(m.Rank) }

// WeightShape is the shape of the layer weight that the module changes:
// [out, in] or [out, in, kh, kw]. The module must be valid.
func (m Module) WeightShape() []int {
	shape := slices.Clone(m.Down.Shape)
	shape[0] = m.Up.Shape[0]
	return shape
}

// Validate says whether down, up, rank and alpha belong together. The error
// names the module.
func (m Module) Validate() error {
	if err := m.check(); err != nil {
		return fmt.Errorf("module %s: %w", m.Path, err)
	}
	return nil
}

func (m Module) check() error {
	d, u := m.Down.Shape, m.Up.Shape
	if len(d) != 2 && len(d) != 4 || len(u) != len(d) {
		return fmt.Errorf("down has the shape %v and up %v, want [rank in] and [out rank], or both with two kernel dimensions", d, u)
	}
	if d[0] != m.Rank || u[1] != m.Rank || m.Rank < 1 {
		return fmt.Errorf("down has the shape %v and up %v, which do not fit rank %d", d, u, m.Rank)
	}
	if len(u) == 4 && (u[2] != 1 || u[3] != 1) {
		return fmt.Errorf("up has the shape %v, want a 1×1 kernel", u)
	}
	for _, half := range []struct {
		name string
		Matrix
	}{{"down", m.Down}, {"up", m.Up}} {
		n := 1
		for _, dim := range half.Shape {
			if dim < 1 {
				return fmt.Errorf("%s has the shape %v, want positive dimensions", half.name, half.Shape)
			}
			n *= dim
		}
		if n != len(half.Data) {
			return fmt.Errorf("%s has %d values, but its shape %v needs %d", half.name, len(half.Data), half.Shape, n)
		}
	}
	if m.Alpha == 0 || math.IsNaN(m.Alpha) || math.IsInf(m.Alpha, 0) {
		return fmt.Errorf("alpha is %g, want a finite value other than 0 (loaders disagree on what 0 means)", m.Alpha)
	}
	return nil
}

// Delta is the change of the layer weight, alpha/rank * up∘down, with its shape
// [out, in] or [out, in, kh, kw].
func Delta(m Module) (shape []int, values []float32, err error) {
	if err := m.Validate(); err != nil {
		return nil, nil, err
	}
	shape = m.WeightShape()
	values = make([]float32, m.Up.Shape[0]*len(m.Down.Data)/m.Rank)
	m.accumulate(values)
	return shape, values, nil
}

// Merge adds the module's change to weight, the values of its layer's weight,
// in place. The shape must be the module's WeightShape; trailing 1×1 kernel
// dimensions may be there or not, because old models have convolutions where
// new ones have linear layers. The error names the module.
func Merge(weight []float32, shape []int, m Module) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if err := m.CheckTarget(shape); err != nil {
		return err
	}
	if n := m.Up.Shape[0] * len(m.Down.Data) / m.Rank; len(weight) != n {
		return fmt.Errorf("module %s: the layer's weight has %d values, but its shape %v needs %d", m.Path, len(weight), shape, n)
	}
	m.accumulate(weight)
	return nil
}

// CheckTarget says whether the module fits a layer weight of the given shape.
func (m Module) CheckTarget(shape []int) error {
	if want := m.WeightShape(); !slices.Equal(squeezeKernel(shape), squeezeKernel(want)) {
		return fmt.Errorf("module %s: it changes a weight of shape %v, but the layer's is %v: the LoRA was made for another model", m.Path, want, shape)
	}
	return nil
}

// CheckTargets applies CheckTarget to every module; shapes are the weight
// shapes of the model's layers by module path.
func CheckTargets(modules []Module, shapes map[string][]int) error {
	var failed []error
	for _, m := range modules {
		shape, ok := shapes[m.Path]
		if !ok {
			failed = append(failed, fmt.Errorf("module %s: the model has no such layer", m.Path))
		} else if err := m.CheckTarget(shape); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 3 {
		failed = append(failed[:3:3], fmt.Errorf("and %d more", len(failed)-3))
	}
	return errors.Join(failed...)
}

func squeezeKernel(shape []int) []int {
	if len(shape) == 4 && shape[2] == 1 && shape[3] == 1 {
		return shape[:2]
	}
	return shape
}

// accumulate adds scale * up[out, rank] · down[rank, in*kh*kw] to into. A 1×1
// up makes the composition of two convolutions this product.
func (m Module) accumulate(into []float32) {
	out, inner := m.Up.Shape[0], len(m.Down.Data)/m.Rank
	blas32.Gemm(blas.NoTrans, blas.NoTrans, float32(m.Scale()),
		blas32.General{Rows: out, Cols: m.Rank, Stride: m.Rank, Data: m.Up.Data},
		blas32.General{Rows: m.Rank, Cols: inner, Stride: inner, Data: m.Down.Data},
		1, blas32.General{Rows: out, Cols: inner, Stride: inner, Data: into})
}
