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

// conv is torchvision's BasicConv2d: convolution, batch norm with its running statistics, ReLU.
func conv(s *nn.Scope, name string, x *graph.Node, out int, k kernel, stride int, p padding) *graph.Node {
	in := x.Shape().Dim(-1)
	b := s.Sub(name)
	w := b.Master("conv.weight", nn.FanIn, out, in, k[0], k[1])
	variance := b.Master("bn.running_var", nn.Ones, out)
	scale := graph.Div(b.Master("bn.weight", nn.Ones, out), graph.Sqrt(graph.AddScalar(variance, normEps)))
	shift := graph.Sub(b.Master("bn.bias", nn.Zeros, out), graph.Mul(b.Master("bn.running_mean", nn.Zeros, out), scale))
	w = graph.Mul(w, graph.BroadcastToShape(graph.Reshape(scale, out, 1, 1, 1), w.Shape()))
	w, shift = graph.ConvertDType(w, s.Compute), graph.ConvertDType(shift, s.Compute)

	var y *graph.Node
	if k == (kernel{1, 1}) && stride == 1 {
		d := x.Shape().Dimensions
		y = graph.DotGeneral(graph.Reshape(x, -1, in), []int{1}, nil, graph.Reshape(w, out, in), []int{1}, nil)
		y = graph.Reshape(y, d[0], d[1], d[2], out)
	} else {
		y = graph.Convolve(x, graph.TransposeAllAxes(w, 2, 3, 1, 0)).Strides(stride).PaddingPerDim(k.pads(p)).Done()
	}
	y = graph.Add(y, graph.BroadcastToShape(graph.Reshape(shift, 1, 1, 1, out), y.Shape()))
	return graph.Max(y, graph.ZerosLike(y))
}

var window = kernel{3, 3}

func maxPool(x *graph.Node, stride int, p padding) *graph.Node {
	return graph.MaxPool(x).Window(3).Strides(stride).PaddingPerDim(window.pads(p)).Done()
}

// averagePool is over 3×3 at stride 1; what lies outside the image does not count.
func averagePool(x *graph.Node) *graph.Node {
	return graph.MeanPool(x).Window(3).Strides(1).PaddingPerDim(window.pads(same)).Done()
}
