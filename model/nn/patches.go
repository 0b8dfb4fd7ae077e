package nn

import (
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// pureGo says whether a graph is for GoMLX's pure-Go backend.
func pureGo(g *graph.Graph) bool { return g.Backend().String() == "go" }

// patches is Convolve as one matrix product over the input's patches. The pure-Go backend computes products of matrices
// well and convolutions, above all their gradients, element by element.
func patches(x, w *graph.Node, stride, pad int) *graph.Node {
	k := w.Shape().Dimensions
	flat, high, wide := unfold(x, k[2], k[3], stride, pad)
	kernel := graph.Reshape(graph.TransposeAllAxes(w, 0, 2, 3, 1), k[0], -1)
	return graph.Reshape(graph.DotGeneral(flat, []int{1}, nil, kernel, []int{1}, nil), x.Shape().Dim(0), high, wide, k[0])
}

// Patches are the inputs of a convolution of stride 1 as rows: [B, H, W, C] → [B·H·W, kernel·kernel·C], a patch's rows
// first, then its columns, then channels. The convolution is their product with its kernel in that order.
func Patches(x *graph.Node, kernel, pad int) *graph.Node {
	flat, _, _ := unfold(x, kernel, kernel, 1, pad)
	return flat
}

func unfold(x *graph.Node, kernelHigh, kernelWide, stride, pad int) (flat *graph.Node, high, wide int) {
	g := x.Graph()
	for axis := 1; axis <= 2 && pad > 0; axis++ {
		border := append([]int{}, x.Shape().Dimensions...)
		border[axis] = pad
		zeros := graph.Zeros(g, shapes.Make(x.DType(), border...))
		x = graph.Concatenate([]*graph.Node{zeros, x, zeros}, axis)
	}
	d := x.Shape().Dimensions
	high, wide = (d[1]-kernelHigh)/stride+1, (d[2]-kernelWide)/stride+1
	var taps []*graph.Node
	for i := range kernelHigh {
		for j := range kernelWide {
			taps = append(taps, graph.Slice(x, graph.AxisRange(),
				graph.AxisRange(i, i+(high-1)*stride+1).Stride(stride), graph.AxisRange(j, j+(wide-1)*stride+1).Stride(stride)))
		}
	}
	return graph.Reshape(graph.Concatenate(taps, 3), d[0]*high*wide, kernelHigh*kernelWide*d[3]), high, wide
}
