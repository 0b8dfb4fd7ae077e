package engine

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Weights that nothing trains are kept in a dtype of their own (Engine.Frozen), and at granularities below network, which are
// for GPUs, kernels of convolutions in bf16 are kept as cuDNN reads them: [out, height, width, in] in place of PyTorch's
// [out, in, height, width]. Programs see them in PyTorch's order, and XLA drops the two turns that cancel.

// keeps is the form in which a parameter is kept, without content: vectors, adapters and what is
// computed in f32 in f32 always.
func (e *Engine) keeps(s nn.Spec, trained bool) *Array {
	if trained && e.working(s) {
		return &Array{shape: shapes.Make(dtypes.BFloat16, s.Dims...), working: true}
	}
	dtype := e.FrozenDType()
	if trained || len(s.Dims) < 2 || s.Wide || IsLoRA(s.Name) {
		dtype = dtypes.Float32
	}
	turned := dtype == dtypes.BFloat16 && e.Granularity < nn.Network && len(s.Dims) == 4 && s.Dims[2]*s.Dims[3] > 1
	if turned {
		return &Array{shape: shapes.Make(dtype, s.Dims[0], s.Dims[2], s.Dims[3], s.Dims[1]), turned: true}
	}
	return &Array{shape: shapes.Make(dtype, s.Dims...)}
}

// parameter is a graph's parameter for an array, in PyTorch's order, in f32 where it is trained.
func parameter(g *graph.Graph, name string, a *Array) *graph.Node {
	n := graph.Parameter(g, name, a.shape)
	if a.turned {
		n = graph.TransposeAllAxes(n, 0, 3, 1, 2)
	}
	if a.working {
		n = graph.ConvertDType(n, dtypes.Float32)
	}
	return n
}

// turned puts a kernel [out, in, height·width] into the order [out, height·width, in].
func turned(v []float32, dims []int) []float32 {
	out := make([]float32, len(v))
	in, area := dims[1], dims[2]*dims[3]
	for o := 0; o < len(v); o += in * area {
		for i := range in {
			for k := range area {
				out[o+k*in+i] = v[o+i*area+k]
			}
		}
	}
	return out
}

// upright undoes turned; dims are those of the kept kernel, [out, height, width, in].
func upright(v []float32, dims []int) []float32 {
	return turned(v, []int{dims[0], dims[1] * dims[2], 1, dims[3]})
}

// convert is an array in another dtype, or a copy in its own.
func (e *Engine) convert(a *Array, dtype dtypes.DType) (*Array, error) {
	return e.one("convert|"+dtype.String(), 0, []*Array{a}, func(in []*graph.Node) *graph.Node { return graph.ConvertDType(in[0], dtype) })
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
