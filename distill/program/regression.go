package program

import (
	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Regression is the normal equations of conv_out on the network's own last features: the denoiser's inputs and the
// target [B,H,W,C'] → Zᵀ·Z in f64, Z = [patches, 1, target] with a row for each position, as two f32 matrices
// [2, n, n] whose sum it is. See distill.Regression.
func (f *Functions) Regression() engine.Function {
	normal := Op("normal_equations", func(in []*graph.Node) *graph.Node {
		g := in[0].Graph()
		wide := func(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtypes.Float64) }
		patches := wide(f.Denoiser.Patches(in[0]))
		rows := patches.Shape().Dim(0)
		z := graph.Concatenate([]*graph.Node{patches, graph.Ones(g, shapes.Make(dtypes.Float64, rows, 1)), wide(graph.Reshape(in[1], rows, -1))}, 1)
		gram := graph.DotGeneral(z, []int{0}, nil, z, []int{0}, nil)
		rounded := graph.ConvertDType(gram, dtypes.Float32)
		rest := graph.ConvertDType(graph.Sub(gram, wide(rounded)), dtypes.Float32)
		return graph.Stack([]*graph.Node{rounded, rest}, 0)
	})
	return engine.Function{Key: "regression/" + f.Signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		net, more := f.Split(in)
		features := nn.One(r, f.Denoiser.Features(NetDenoiser, f.LoRA), net...)
		return r.Run(normal, features, more[0])
	}}
}
