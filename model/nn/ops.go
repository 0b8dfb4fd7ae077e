package nn

import (
	"math"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers/attention"
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

// Attention is softmax(q·kᵀ/√d + mask)·v for q [B, N, heads·d] and k, v [B, M, heads·d].
// mask, if not nil, is added to the scores [N, M]. Where cuDNN's flash attention can do it, the scores are never in
// memory, neither here nor in the gradient. The output has v's dtype.
func Attention(q, k, v *graph.Node, heads int, mask *graph.Node) *graph.Node {
	b, n, c := q.Shape().Dim(0), q.Shape().Dim(1), q.Shape().Dim(2)
	m, d := k.Shape().Dim(1), c/heads
	if mask == nil && n == m && flash(q, n, d) {
		split := func(x *graph.Node) *graph.Node { return graph.Reshape(x, b, n, heads, d) }
		out, _ := attention.Core(split(q), split(k), split(v), attention.LayoutBSHD, attention.CoreOptions{})
		return graph.Reshape(out, b, n, c)
	}
	split := func(x *graph.Node, t int) *graph.Node {
		return graph.Reshape(graph.TransposeAllAxes(graph.Reshape(x, b, t, heads, d), 0, 2, 1, 3), b*heads, t, d)
	}
	q = graph.MulScalar(q, 1/math.Sqrt(float64(d)))
	qh, kh, vh := split(q, n), split(k, m), split(v, m)
	scores := graph.DotGeneral(qh, []int{2}, []int{0}, kh, []int{2}, []int{0})
	scores = graph.ConvertDType(scores, dtypes.Float32)
	if mask != nil {
		scores = graph.Add(scores, graph.BroadcastToShape(graph.Reshape(mask, 1, n, m), scores.Shape()))
	}
	p := softmax(scores)
	out := graph.DotGeneral(graph.ConvertDType(p, v.DType()), []int{2}, []int{0}, vh, []int{1}, []int{0})
	return graph.Reshape(graph.TransposeAllAxes(graph.Reshape(out, b, heads, n, d), 0, 2, 1, 3), b, n, c)
}

// flash says whether self-attention over n tokens with heads of width d goes to cuDNN: on a CUDA plugin, in half
// precision. (Its attention to another sequence is left alone: go-xla describes square scores only.)
func flash(q *graph.Node, n, d int) bool {
	b, ok := q.Graph().Backend().(interface{ PluginName() string })
	return ok && strings.HasSuffix(b.PluginName(), "cuda") && q.DType().IsHalfPrecision() && n%64 == 0 && d%8 == 0 && d <= 128
}

func softmax(x *graph.Node) *graph.Node {
	top := graph.StopGradient(graph.ReduceAndKeep(x, graph.ReduceMax, -1))
	e := graph.Exp(graph.Sub(x, top))
	return graph.Div(e, graph.ReduceAndKeep(e, graph.ReduceSum, -1))
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
