package nn_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Attention in bf16, to itself and to a text of 77 tokens, and its gradients, are those in f32. On a CUDA device the
// first are cuDNN's flash kernels, which f32 never takes.
func TestAttentionInBF16(t *testing.T) {
	const batch, heads, width, n = 2, 3, 64, 128
	for _, m := range []int{n, 77} {
		t.Run(fmt.Sprint(m), func(t *testing.T) {
			results := map[dtypes.DType][][]float32{}
			for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
				rng := rand.New(rand.NewPCG(5, uint64(m)))
				g := graph.NewGraph(runtime.Backend, "attention")
				var in []*graph.Node
				var args []tensor
				for i, tokens := range []int{n, m, m, n} { // q, k, v, the output's cotangent
					a := tensor{name: fmt.Sprintf("x%d", i), dims: []int{batch, tokens, heads * width}}
					for range batch * tokens * heads * width {
						a.values = append(a.values, float32(rng.NormFloat64()))
					}
					args = append(args, a)
					in = append(in, graph.Parameter(g, a.name, shapes.Make(dtypes.Float32, a.dims...)))
				}
				cast := func(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtype) }
				y := graph.ConvertDType(nn.Attention(cast(in[0]), cast(in[1]), cast(in[2]), heads, nil), dtypes.Float32)
				loss := graph.ReduceAllSum(graph.Mul(y, graph.StopGradient(in[3])))
				if err := g.Compile(append([]*graph.Node{y}, graph.Gradient(loss, in[:3]...)...)...); err != nil {
					t.Fatal(err)
				}
				results[dtype] = evaluate(t, g, args)
			}
			for i, what := range []string{"output", "gradient by q", "gradient by k", "gradient by v"} {
				exact, rough := results[dtypes.Float32][i], results[dtypes.BFloat16][i]
				var dot, a, b float64
				for k := range exact {
					x, y := float64(exact[k]), float64(rough[k])
					dot, a, b = dot+x*y, a+x*x, b+y*y
				}
				cos, ratio := dot/math.Sqrt(a*b), math.Sqrt(b/a)
				if !(cos >= 0.9999) || !(math.Abs(ratio-1) <= 0.01) {
					t.Errorf("%s: cosine %.6f, length %.4f of the exact one's", what, cos, ratio)
				}
			}
		})
	}
}
