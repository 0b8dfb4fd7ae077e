package nn

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// SiLU is x·σ(x).
func SiLU(x *graph.Node) *graph.Node { return graph.Mul(x, graph.Sigmoid(x)) }

// GELU is the exact form x·Φ(x), as diffusers' GEGLU and open_clip use.
func GELU(x *graph.Node) *graph.Node {
	half := graph.MulScalar(x, 0.5)
	return graph.Mul(half, graph.AddScalar(graph.Erf(graph.MulScalar(x, 1/math.Sqrt2)), 1.0))
}

// QuickGELU is x·σ(1.702 x), OpenAI CLIP's activation.
func QuickGELU(x *graph.Node) *graph.Node {
	return graph.Mul(x, graph.Sigmoid(graph.MulScalar(x, 1.702)))
}

// Softplus is ln(1 + eˣ), stable at both ends.
func Softplus(x *graph.Node) *graph.Node {
	return graph.Add(graph.Max(x, graph.ZerosLike(x)), graph.Log1P(graph.Exp(graph.Neg(graph.Abs(x)))))
}

// Sinusoid embeds values [B] into [B, dim] as diffusers' Timesteps(flip_sin_to_cos=True, downscale_freq_shift=0):
// cosines first, frequencies 10000^(-i/half).
func Sinusoid(x *graph.Node, dim int) *graph.Node {
	g := x.Graph()
	half := dim / 2
	freqs := graph.Exp(graph.MulScalar(graph.Iota(g, shapes.Make(dtypes.Float32, 1, half), 1), -math.Log(10000)/float64(half)))
	b := x.Shape().Size()
	angle := graph.Mul(
		graph.BroadcastToDims(graph.Reshape(graph.ConvertDType(x, dtypes.Float32), b, 1), b, half),
		graph.BroadcastToDims(freqs, b, half))
	return graph.Concatenate([]*graph.Node{graph.Cos(angle), graph.Sin(angle)}, 1)
}

// Upsample2 doubles height and width of an NHWC input by repeating (nearest neighbour).
func Upsample2(x *graph.Node) *graph.Node {
	d := x.Shape().Dimensions
	y := graph.Reshape(x, d[0], d[1], 1, d[2], 1, d[3])
	y = graph.BroadcastToDims(y, d[0], d[1], 2, d[2], 2, d[3])
	return graph.Reshape(y, d[0], 2*d[1], 2*d[2], d[3])
}

// AvgPool averages non-overlapping side×side windows of an NHWC input.
func AvgPool(x *graph.Node, side int) *graph.Node {
	d := x.Shape().Dimensions
	y := graph.Reshape(x, d[0], d[1]/side, side, d[2]/side, side, d[3])
	return graph.ReduceMean(y, 2, 4)
}

// Scale multiplies each sample of x [B, …] by its coefficient [B].
func Scale(x, coefficient *graph.Node) *graph.Node {
	dims := make([]int, x.Rank())
	for i := range dims {
		dims[i] = 1
	}
	dims[0] = x.Shape().Dim(0)
	c := graph.ConvertDType(graph.Reshape(coefficient, dims...), x.DType())
	return graph.Mul(x, graph.BroadcastToShape(c, x.Shape()))
}
