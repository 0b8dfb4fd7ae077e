package inception

import (
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// kernel is a window's height and width.
type kernel [2]int

// padding is how a window meets the image's border.
type padding int

const (
	valid padding = iota // windows lie inside
	same                 // at stride 1 the size stays
)

func (k kernel) pads(p padding) [][2]int {
	if p == valid {
		return [][2]int{{}, {}}
	}
	return [][2]int{{k[0] / 2, k[0] / 2}, {k[1] / 2, k[1] / 2}}
}

// conv is torchvision's BasicConv2d with its batch norm folded in: convolution, bias, ReLU. Its parameters are made of
// the state dict's by Fold.
func conv(s *nn.Scope, name string, x *graph.Node, out int, k kernel, stride int, p padding) *graph.Node {
	b := s.Sub(name)
	w := b.Param("weight", nn.FanIn, k[0], k[1], x.Shape().Dim(-1), out)
	y := graph.Convolve(x, w).Strides(stride).PaddingPerDim(k.pads(p)).Done()
	return relu(biased(b, y))
}

// branch is a 1×1 convolution by name and width.
type branch struct {
	name string
	out  int
}

// pointwise are 1×1 convolutions of the same image without their ReLU, as one product: their weights lie side by side
// in one parameter, whose name tells whose columns are whose.
func pointwise(s *nn.Scope, x *graph.Node, branches ...branch) []*graph.Node {
	width := 0
	for _, b := range branches {
		width += b.out
	}
	d, all := x.Shape().Dimensions, s.Sub(joined(branches))
	y := graph.DotGeneral(graph.Reshape(x, -1, d[3]), []int{1}, nil, all.Param("weight", nn.FanIn, d[3], width), []int{0}, nil)
	y = biased(all, graph.Reshape(y, d[0], d[1], d[2], width))
	out, at := make([]*graph.Node, len(branches)), 0
	for i, b := range branches {
		out[i] = graph.Slice(y, graph.AxisRange(), graph.AxisRange(), graph.AxisRange(), graph.AxisRange(at, at+b.out))
		at += b.out
	}
	return out
}

func biased(s *nn.Scope, y *graph.Node) *graph.Node {
	width := y.Shape().Dim(-1)
	return graph.Add(y, graph.BroadcastToShape(graph.Reshape(s.Param("bias", nn.Zeros, width), 1, 1, 1, width), y.Shape()))
}

func relu(x *graph.Node) *graph.Node { return graph.Max(x, graph.ZerosLike(x)) }

// Pooling over 3×3 is written as nine shifted images, of which XLA makes one fast loop: its windows took a tenth of the
// network's time on CPUs.

// shifted are the nine images that a window sees, of what pads around the border.
func shifted(x *graph.Node, stride int, p padding, around *graph.Node) []*graph.Node {
	if p == same {
		one := graph.PadAxis{Start: 1, End: 1}
		x = graph.Pad(x, around, graph.PadAxis{}, one, one, graph.PadAxis{})
	}
	var out []*graph.Node
	height, width := x.Shape().Dim(1), x.Shape().Dim(2)
	axis := func(from, size int) graph.SliceAxisSpec {
		return graph.AxisRange(from, size-2+from).Stride(stride)
	}
	for i := range 3 {
		for j := range 3 {
			out = append(out, graph.Slice(x, graph.AxisRange(), axis(i, height), axis(j, width), graph.AxisRange()))
		}
	}
	return out
}

// maxPool is of values that are not negative.
func maxPool(x *graph.Node, stride int, p padding) *graph.Node {
	all := shifted(x, stride, p, graph.ScalarZero(x.Graph(), x.DType()))
	y := all[0]
	for _, v := range all[1:] {
		y = graph.Max(y, v)
	}
	return y
}

// averagePool is over 3×3 at stride 1; what lies outside the image does not count. It may come before or after a 1×1
// convolution: both are linear and the weights of each average add up to 1.
func averagePool(x *graph.Node) *graph.Node {
	all := shifted(x, 1, same, graph.ScalarZero(x.Graph(), x.DType()))
	y := all[0]
	for _, v := range all[1:] {
		y = graph.Add(y, v)
	}
	height, width := x.Shape().Dim(1), x.Shape().Dim(2)
	part := make([]float32, height*width)
	for i := range part {
		part[i] = 1 / float32(inside(i/width, height)*inside(i%width, width))
	}
	share := graph.ConvertDType(graph.Reshape(graph.Const(x.Graph(), part), 1, height, width, 1), x.DType())
	return graph.Mul(y, graph.BroadcastToShape(share, y.Shape()))
}

// inside counts the places i−1, i and i+1 that lie in an image of n.
func inside(i, n int) int { return min(i+1, n-1) - max(i-1, 0) + 1 }
