package nn

import (
	"math"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers/attention"
)

// Attention is softmax(q·kᵀ/√d + mask)·v for q [B, N, heads·d] and k, v [B, M, heads·d].
// mask, if not nil, is added to the scores [N, M]. Where cuDNN's flash attention can do it, the scores are never in
// memory; in a gradient they are, if M is not N. The output has v's dtype.
func Attention(q, k, v *graph.Node, heads int, mask *graph.Node) *graph.Node {
	b, n, c := q.Shape().Dim(0), q.Shape().Dim(1), q.Shape().Dim(2)
	m, d := k.Shape().Dim(1), c/heads
	if mask != nil || !flash(q, n, d) {
		return attend(q, k, v, heads, mask)
	}
	split := func(x *graph.Node) *graph.Node { return graph.Reshape(x, b, x.Shape().Dim(1), heads, d) }
	var out *graph.Node
	if n == m {
		out, _ = attention.Core(split(q), split(k), split(v), attention.LayoutBSHD, attention.CoreOptions{})
	} else { // go-xla describes forward scores by the operands' shapes, but the gradient's as square: that is the plain one
		out, _ = graph.InternalFusedOpCaller(func() *graph.Node {
			out, _ := graph.BackendFusedScaledDotProductAttention(split(q), split(k), split(v), compute.AttentionAxesLayoutBSHD, &compute.ScaledDotProductAttentionConfig{})
			return out
		}, func() *graph.Node { return split(attend(q, k, v, heads, nil)) }, true)
	}
	return graph.Reshape(out, b, n, c)
}

// attend is Attention with its scores in memory.
func attend(q, k, v *graph.Node, heads int, mask *graph.Node) *graph.Node {
	b, n, c := q.Shape().Dim(0), q.Shape().Dim(1), q.Shape().Dim(2)
	m, d := k.Shape().Dim(1), c/heads
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

// flash says whether attention of n tokens with heads of width d goes to cuDNN: on a CUDA plugin, in half precision.
func flash(q *graph.Node, n, d int) bool {
	return onCUDA(q.Graph()) && q.DType().IsHalfPrecision() && n%64 == 0 && d%8 == 0 && d <= 128
}

func onCUDA(g *graph.Graph) bool {
	b, ok := g.Backend().(interface{ PluginName() string })
	return ok && strings.HasSuffix(b.PluginName(), "cuda")
}

func softmax(x *graph.Node) *graph.Node {
	top := graph.StopGradient(graph.ReduceAndKeep(x, graph.ReduceMax, -1))
	e := graph.Exp(graph.Sub(x, top))
	return graph.Div(e, graph.ReduceAndKeep(e, graph.ReduceSum, -1))
}
