package clip

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Vision is the image encoder: normalised images [B, S, S, channels] with S = ImageSize to the projected embedding
// [B, P] and then the Layers+1 hidden states [B, 1 + patches, D] (class token first; the first state is the
// pre-norm's output), all f32.
func (c *VisionConfig) Vision(name string) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_vision(%s,%d,%d,%d)", c.signature(), c.Channels, c.ImageSize, c.PatchSize),
		Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			states := c.layers(r, "vision_model", false, nn.One(r, c.visionEmbeddings(), in[0]))
			out := []nn.Value{nn.One(r, c.visionHead(), states[len(states)-1])}
			for _, h := range states {
				out = append(out, nn.One(r, asFloat32(), h))
			}
			return out
		},
	}
}

// visionEmbeddings is patches, class token, positions and the norm before the first layer.
func (c *VisionConfig) visionEmbeddings() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_vision_embeddings(%d,%d,%d,%d,%g)", c.HiddenSize, c.Channels, c.ImageSize, c.PatchSize, c.NormEps),
		Name: "vision_model",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x, d := graph.ConvertDType(in[0], s.Compute), in[0].Shape().Dimensions
			if len(d) != 4 || d[1] != c.ImageSize || d[2] != c.ImageSize || d[3] != c.Channels {
				panic(fmt.Errorf("images of shape %v given, the image encoder wants [batch, %d, %d, %d]", d, c.ImageSize, c.ImageSize, c.Channels))
			}
			e := s.Sub("embeddings")
			side, p := c.ImageSize/c.PatchSize, c.PatchSize
			if side*p != c.ImageSize {
				x = graph.Slice(x, graph.AxisRange(), graph.AxisRange(0, side*p), graph.AxisRange(0, side*p))
			}
			// A convolution whose stride is its kernel is a matrix product over patches.
			x = graph.TransposeAllAxes(graph.Reshape(x, d[0], side, p, side, p, d[3]), 0, 1, 3, 5, 2, 4)
			w := e.Param("patch_embedding.weight", nn.FanIn, c.HiddenSize, c.Channels, p, p)
			x = graph.DotGeneral(graph.Reshape(x, d[0]*side*side, d[3]*p*p), []int{1}, nil, graph.Reshape(w, c.HiddenSize, d[3]*p*p), []int{1}, nil)
			x = graph.Reshape(x, d[0], side*side, c.HiddenSize)

			class := graph.Reshape(e.Param("class_embedding", nn.Normal002, c.HiddenSize), 1, 1, c.HiddenSize)
			x = graph.Concatenate([]*graph.Node{graph.BroadcastToDims(class, d[0], 1, c.HiddenSize), x}, 1)
			n := side*side + 1
			positions := graph.Reshape(e.Param("position_embedding.weight", nn.Normal002, n, c.HiddenSize), 1, n, c.HiddenSize)
			x = graph.Add(x, graph.BroadcastToShape(positions, x.Shape()))
			return []*graph.Node{s.LayerNorm("pre_layrnorm", x, c.NormEps)}
		},
	}
}

// visionHead is the norm of the class token and its projection.
func (c *VisionConfig) visionHead() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_vision_head(%d,%g,%d)", c.HiddenSize, c.NormEps, c.ProjectionDim),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			class := graph.Slice(in[0], graph.AxisRange(), graph.AxisElem(0))
			class = graph.Reshape(class, in[0].Shape().Dim(0), c.HiddenSize)
			h := s.LayerNorm("vision_model.post_layernorm", class, c.NormEps)
			return []*graph.Node{graph.ConvertDType(s.Linear("visual_projection", h, c.ProjectionDim, false), dtypes.Float32)}
		},
	}
}

// Logits compares image embeddings [N, P] with text embeddings [M, P]: e^logit_scale times their cosines, [N, M] f32.
// The contrastive loss is the mean cross-entropy of its rows and columns.
func Logits(name string) nn.Block {
	return nn.Block{
		Kind: "clip_logits", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(cosines(), in...) },
	}
}

func cosines() nn.Block {
	return nn.Block{
		Kind: "clip_cosines",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			image, text := normalised(in[0]), normalised(in[1])
			c := graph.DotGeneral(image, []int{1}, nil, text, []int{1}, nil)
			scale := graph.Exp(s.Master("logit_scale", nn.LogitScale))
			return []*graph.Node{graph.Mul(c, graph.BroadcastToShape(scale, c.Shape()))}
		},
	}
}

// normalised divides each row of x [N, P] by its length, in f32.
func normalised(x *graph.Node) *graph.Node {
	x = graph.ConvertDType(x, dtypes.Float32)
	return graph.Div(x, graph.Sqrt(graph.ReduceAndKeep(graph.Square(x), graph.ReduceSum, -1)))
}
