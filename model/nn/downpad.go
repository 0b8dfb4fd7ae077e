package nn

import (
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// ConvDownVAE is the downsampler of diffusers' AutoencoderKL encoder: one zero row below and one zero column to the
// right of an NHWC input, then a 3×3 convolution of stride 2 without padding.
func (s *Scope) ConvDownVAE(name string, x *graph.Node, out int) *graph.Node {
	d := x.Shape().Dimensions
	w := s.weight(name+".weight", out, d[3], 3, 3)
	g := x.Graph()
	// Concatenation and not Pad, which has no gradient in GoMLX.
	x = graph.Concatenate([]*graph.Node{x, graph.Zeros(g, shapes.Make(x.DType(), d[0], 1, d[2], d[3]))}, 1)
	x = graph.Concatenate([]*graph.Node{x, graph.Zeros(g, shapes.Make(x.DType(), d[0], d[1]+1, 1, d[3]))}, 2)
	y := Convolve(x, w, 2, 0)
	b := s.Param(name+".bias", Zeros, out)
	return graph.Add(y, graph.BroadcastToShape(graph.Reshape(b, 1, 1, 1, out), y.Shape()))
}
