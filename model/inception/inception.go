// Package inception is the Inception-v3 network whose features the Fréchet inception distance compares, as blocks:
// pytorch-fid's variant of torchvision's network, under the names of its state dict (pt_inception-2015-12-05).
//
// It differs from the classifier that torchvision ships in how it pools: averages leave the padding out of the count,
// and the last module takes the maximum where every other one takes the average. The same structure with the average
// there too is Keras's InceptionV3 ([Average]).
//
// Batch norms are folded into the convolutions' weights when they are loaded, and 1×1 convolutions of the same image are
// one product ([Fold]).
//
// On the same random weights the features at all four depths agree with pytorch-fid's module to 1e-4 of the largest, at
// 299×299 and at odd sizes, whole and module by module (package golden).
//
// # Weights
//
// What a metric is called follows from the weights ([Open], [Release]). pytorch-fid's published file is read as it is
// and known by its SHA-256, whose first 8 digits are in its name; no code in it is run:
//
//	curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
//
// or as safetensors, with a record of that hash and of the tensors' own:
//
//	python3 scripts/convert_inception.py pt_inception-2015-12-05-6726825d.pth inception.safetensors
//
// The hash is the one that several public projects state for this file; the file itself could not be had where this was
// written, so the reader was tried on files that PyTorch saved of the same network with random weights.
//
// nsfwjs-inception, a pretrained Keras network, comes from an npm package:
//
//	python3 scripts/fetch_nsfwjs.py
package inception

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Side is the image size that the network was trained on, in pixels.
const Side = 299

// normEps is torchvision's, and Keras's.
const normEps = 1e-3

// LastPool is how the pooling branch of the last module (Mixed_7c) pools.
type LastPool string

// Poolings of the last module.
const (
	Max     LastPool = "max"     // the FID network
	Average LastPool = "average" // Keras's InceptionV3
)

// Depths are the widths of the features, shallowest first: after the first and the second max pooling, before the
// auxiliary classifier, and the final pooling that FID uses.
var Depths = [...]int{64, 192, 768, 2048}

// Network maps, with parameters by [Fold], images [B, H, W, 3] in [−1, 1] to the spatial means of the features at every depth, [B, depth] f32 in
// the order of [Depths]. H and W are [Side], or at least 75.
func Network(name string, last LastPool) nn.Block {
	return nn.Block{
		Kind: "inception(" + string(last) + ")",
		Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			var out []nn.Value
			h := in[0]
			for i, modules := range stages(last) {
				for _, m := range modules {
					h = nn.One(r, m, h)
				}
				out = append(out, nn.One(r, pooled(Depths[i]), h))
			}
			return out
		},
	}
}

// stages are the modules that lead to each depth.
func stages(last LastPool) [len(Depths)][]nn.Block {
	return [len(Depths)][]nn.Block{
		{module("stem1", "", func(s *nn.Scope, x *graph.Node) *graph.Node {
			x = conv(s, "Conv2d_1a_3x3", x, 32, kernel{3, 3}, 2, valid)
			x = conv(s, "Conv2d_2a_3x3", x, 32, kernel{3, 3}, 1, valid)
			x = conv(s, "Conv2d_2b_3x3", x, 64, kernel{3, 3}, 1, same)
			return maxPool(x, 2, valid)
		})},
		{module("stem2", "", func(s *nn.Scope, x *graph.Node) *graph.Node {
			x = relu(pointwise(s, x, branch{"Conv2d_3b_1x1", 80})[0])
			x = conv(s, "Conv2d_4a_3x3", x, 192, kernel{3, 3}, 1, valid)
			return maxPool(x, 2, valid)
		})},
		{
			mixedA("Mixed_5b", 32), mixedA("Mixed_5c", 64), mixedA("Mixed_5d", 64),
			mixedB("Mixed_6a"),
			mixedC("Mixed_6b", 128), mixedC("Mixed_6c", 160), mixedC("Mixed_6d", 160), mixedC("Mixed_6e", 192),
		},
		{mixedD("Mixed_7a"), mixedE("Mixed_7b", Average), mixedE("Mixed_7c", last)},
	}
}

// module is one program with a single input and output.
func module(kind, name string, build func(s *nn.Scope, x *graph.Node) *graph.Node) nn.Block {
	return nn.Block{Kind: "inception_" + kind, Name: name, Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{build(s, graph.ConvertDType(in[0], s.Compute))}
	}}
}

// pooled is the mean over the image.
func pooled(width int) nn.Block {
	return nn.Block{Kind: "inception_pooled", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		if c := in[0].Shape().Dim(-1); c != width {
			panic(fmt.Errorf("features have %d channels, want %d", c, width))
		}
		return []*graph.Node{graph.ReduceMean(graph.ConvertDType(in[0], dtypes.Float32), 1, 2)}
	}}
}
