package clip

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// maskedScore is added to an attention score that must not count: its exponential is zero in f32.
const maskedScore = -1e9

// layer is transformers' CLIPEncoderLayer on tokens [B, T, D]: pre-norm attention and MLP.
func (c *Tower) layer(name string, causal bool) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_layer(%d,%d,%d,%s,%g,%t)", c.HiddenSize, c.IntermediateSize, c.Heads, c.Activation, c.NormEps, causal),
		Name: name,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x := in[0]
			var mask *graph.Node
			if causal {
				mask = causalMask(x.Graph(), x.Shape().Dim(1))
			}
			h := s.LayerNorm("layer_norm1", x, c.NormEps)
			attn := s.Sub("self_attn")
			q := attn.Linear("q_proj", h, c.HiddenSize, true)
			k := attn.Linear("k_proj", h, c.HiddenSize, true)
			v := attn.Linear("v_proj", h, c.HiddenSize, true)
			x = graph.Add(x, attn.Linear("out_proj", nn.Attention(q, k, v, c.Heads, mask), c.HiddenSize, true))

			h = s.Linear("mlp.fc1", s.LayerNorm("layer_norm2", x, c.NormEps), c.IntermediateSize, true)
			if c.Activation == "quick_gelu" {
				h = nn.QuickGELU(h)
			} else {
				h = nn.GELU(h)
			}
			return []*graph.Node{graph.Add(x, s.Linear("mlp.fc2", h, c.HiddenSize, true))}
		},
	}
}

// layers runs all encoder layers below prefix and returns the hidden states: the input and every layer's output.
func (c *Tower) layers(r nn.Runner, prefix string, causal bool, h nn.Value) []nn.Value {
	states := []nn.Value{h}
	for i := range c.Layers {
		h = nn.One(r, c.layer(fmt.Sprintf("%s.encoder.layers.%d", prefix, i), causal), h)
		states = append(states, h)
	}
	return states
}

// causalMask is 0 where row ≥ column and hides the rest, [n, n] f32.
func causalMask(g *graph.Graph, n int) *graph.Node {
	square := shapes.Make(dtypes.Int32, n, n)
	future := graph.LessThan(graph.Iota(g, square, 0), graph.Iota(g, square, 1))
	return graph.MulScalar(graph.ConvertDType(future, dtypes.Float32), maskedScore)
}

func (c *Tower) signature() string {
	return fmt.Sprintf("%d,%d,%d,%d,%s,%g,%d", c.HiddenSize, c.IntermediateSize, c.Layers, c.Heads, c.Activation, c.NormEps, c.ProjectionDim)
}

// asFloat32 converts an output to f32, whatever the compute dtype.
func asFloat32() nn.Block {
	return nn.Block{
		Kind: "clip_f32",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.ConvertDType(in[0], dtypes.Float32)}
		},
	}
}
