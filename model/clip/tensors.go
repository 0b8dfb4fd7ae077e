package clip

import "fmt"

// Tensors are the names and shapes of a text encoder's state dict, in PyTorch's layout.
func (c *TextConfig) Tensors() map[string][]int {
	t := map[string][]int{}
	width := c.HiddenSize
	linear := func(name string, in, out int) { t[name+".weight"], t[name+".bias"] = []int{out, in}, []int{out} }
	norm := func(name string) { t[name+".weight"], t[name+".bias"] = []int{width}, []int{width} }
	t["text_model.embeddings.token_embedding.weight"] = []int{c.VocabSize, width}
	t["text_model.embeddings.position_embedding.weight"] = []int{c.MaxPositions, width}
	for i := range c.Layers {
		layer := fmt.Sprintf("text_model.encoder.layers.%d.", i)
		norm(layer + "layer_norm1")
		norm(layer + "layer_norm2")
		for _, proj := range []string{"q_proj", "k_proj", "v_proj", "out_proj"} {
			linear(layer+"self_attn."+proj, width, width)
		}
		linear(layer+"mlp.fc1", width, c.IntermediateSize)
		linear(layer+"mlp.fc2", c.IntermediateSize, width)
	}
	norm("text_model.final_layer_norm")
	if c.Projected {
		t["text_projection.weight"] = []int{c.ProjectionDim, width}
	}
	return t
}
