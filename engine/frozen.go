package engine

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// convert is an array in another dtype, or a copy in its own.
func (e *Engine) convert(a *Array, dtype dtypes.DType) (*Array, error) {
	p, err := e.get(e.key("convert|"+dtype.String(), "", []*Array{a}), func(g *graph.Graph, _ *program) []*graph.Node {
		x := nodes(inputNodes(g, []shapes.Shape{a.shape}))[0]
		return []*graph.Node{graph.ConvertDType(x, dtype)}
	})
	if err != nil {
		return nil, err
	}
	out, err := e.execute(p, []*Array{a}, nil)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (e *Engine) copy(a *Array) (*Array, error) { return e.convert(a, a.shape.DType) }

// narrowed rounds to bf16.
func narrowed(v []float32) []bfloat16.BFloat16 {
	out := make([]bfloat16.BFloat16, len(v))
	for i, x := range v {
		out[i] = bfloat16.FromFloat32(x)
	}
	return out
}

// widened copies a bf16 array to the host.
func (e *Engine) widened(a *Array) ([]float32, error) {
	narrow := make([]bfloat16.BFloat16, a.shape.Size())
	if err := a.buffer.ToFlatData(narrow); err != nil {
		return nil, fmt.Errorf("reading a tensor of shape %v from the device: %w", a.shape.Dimensions, err)
	}
	out := make([]float32, len(narrow))
	for i, v := range narrow {
		out[i] = v.Float32()
	}
	return out, nil
}
