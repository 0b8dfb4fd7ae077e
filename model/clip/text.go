package clip

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Outputs of [TextConfig.Text], in order, all f32.
const (
	TextHidden    = iota // hidden_states[-2] [B, T, D], without the final norm: what SDXL's UNet attends to
	TextPooled           // final norm at the end-of-text token [B, D]
	TextProjected        // pooled · text_projection [B, P]; only if Projected
)

// Text is the text encoder: token ids [B, T] int32 and end-of-text positions [B] int32 (see [TextConfig.EOSPosition])
// to the outputs above. T is at most MaxPositions. Attention is causal; padding is not masked, as in SDXL.
func (c *TextConfig) Text(name string) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_text(%s,%d,%d,%t)", c.signature(), c.VocabSize, c.MaxPositions, c.Projected),
		Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := nn.One(r, c.textEmbeddings(), in[0])
			states := c.layers(r, "text_model", true, h)
			hidden := nn.One(r, asFloat32(), states[len(states)-2])
			return append([]nn.Value{hidden}, r.Run(c.textHead(), states[len(states)-1], in[1])...)
		},
	}
}

// Tokens is the text encoder where every token's last hidden state counts, behind the final norm, as in Stable Diffusion 1
// and 2: token ids [B, T] int32 to [B, T, D] f32. A text projection is no part of it.
func (c *TextConfig) Tokens(name string) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_tokens(%s,%d,%d)", c.signature(), c.VocabSize, c.MaxPositions),
		Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			states := c.layers(r, "text_model", true, nn.One(r, c.textEmbeddings(), in[0]))
			return r.Run(c.finalNorm(), states[len(states)-1])
		},
	}
}

// finalNorm is the norm behind the last layer, of every token.
func (c *TextConfig) finalNorm() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_final_norm(%d,%g)", c.HiddenSize, c.NormEps),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.ConvertDType(s.LayerNorm("text_model.final_layer_norm", in[0], c.NormEps), dtypes.Float32)}
		},
	}
}

// textEmbeddings is token plus position embedding, ids [B, T] to [B, T, D].
func (c *TextConfig) textEmbeddings() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_text_embeddings(%d,%d,%d)", c.VocabSize, c.HiddenSize, c.MaxPositions),
		Name: "text_model.embeddings",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			b, t := in[0].Shape().Dim(0), in[0].Shape().Dim(1)
			if t > c.MaxPositions {
				panic(fmt.Errorf("%d tokens given, the text encoder has %d positions", t, c.MaxPositions))
			}
			table := s.Master("token_embedding.weight", nn.Normal002, c.VocabSize, c.HiddenSize)
			x := graph.Gather(table, graph.Reshape(in[0], b, t, 1))
			positions := s.Master("position_embedding.weight", nn.Normal002, c.MaxPositions, c.HiddenSize)
			if t < c.MaxPositions {
				positions = graph.Slice(positions, graph.AxisRange(0, t))
			}
			x = graph.Add(x, graph.BroadcastToShape(graph.Reshape(positions, 1, t, c.HiddenSize), x.Shape()))
			return []*graph.Node{graph.ConvertDType(x, s.Compute)}
		},
	}
}

// textHead is the final norm at each sequence's end-of-text token, and its projection.
func (c *TextConfig) textHead() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("clip_text_head(%d,%g,%t,%d)", c.HiddenSize, c.NormEps, c.Projected, c.ProjectionDim),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			h, at := in[0], in[1]
			b, t := h.Shape().Dim(0), h.Shape().Dim(1)
			here := graph.OneHot(graph.Reshape(at, b), t, h.DType())
			h = graph.DotGeneral(here, []int{1}, []int{0}, h, []int{1}, []int{0})
			pooled := s.LayerNorm("text_model.final_layer_norm", h, c.NormEps)
			out := []*graph.Node{graph.ConvertDType(pooled, dtypes.Float32)}
			if c.Projected {
				projected := s.Linear("text_projection", pooled, c.ProjectionDim, false)
				out = append(out, graph.ConvertDType(projected, dtypes.Float32))
			}
			return out
		},
	}
}
