package clip

import (
	"fmt"

	"fewstep/model/nn"
)

// Tensors are the names and shapes of a text encoder's state dict, in PyTorch's layout.
func (c *TextConfig) Tensors() map[string][]int {
	t := nn.StateDict{}
	width := c.HiddenSize
	t["text_model.embeddings.token_embedding.weight"] = []int{c.VocabSize, width}
	t["text_model.embeddings.position_embedding.weight"] = []int{c.MaxPositions, width}
	for i := range c.Layers {
		layer := fmt.Sprintf("text_model.encoder.layers.%d.", i)
		t.Norm(layer+"layer_norm1", width)
		t.Norm(layer+"layer_norm2", width)
		for _, proj := range []string{"q_proj", "k_proj", "v_proj", "out_proj"} {
			t.Linear(layer+"self_attn."+proj, width, width)
		}
		t.Linear(layer+"mlp.fc1", width, c.IntermediateSize)
		t.Linear(layer+"mlp.fc2", c.IntermediateSize, width)
	}
	t.Norm("text_model.final_layer_norm", width)
	if c.Projected {
		t.Matrix("text_projection", width, c.ProjectionDim)
	}
	return t
}
