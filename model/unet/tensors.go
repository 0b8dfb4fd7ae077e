package unet

import (
	"fmt"

	"fewstep/model/nn"
)

// Tensors are the names and shapes of the network's state dict, in PyTorch's layout.
func (c *Config) Tensors() map[string][]int {
	t := stateDict{nn.StateDict{}}
	wide := 4 * c.BlockOutChannels[0]
	t.Conv("conv_in", c.InChannels, c.BlockOutChannels[0], 3)
	t.Linear("time_embedding.linear_1", c.BlockOutChannels[0], wide)
	t.Linear("time_embedding.linear_2", wide, wide)
	if c.Added() {
		t.Linear("add_embedding.linear_1", c.ProjectionDim, wide)
		t.Linear("add_embedding.linear_2", wide, wide)
	}
	levels := len(c.BlockOutChannels)
	in := c.BlockOutChannels[0]
	skips := []int{in}
	for i, ch := range c.BlockOutChannels {
		block := fmt.Sprintf("down_blocks.%d.", i)
		for j := range c.LayersPerBlock.at(i) {
			t.resnet(fmt.Sprintf("%sresnets.%d.", block, j), in, ch, wide)
			t.transformer(fmt.Sprintf("%sattentions.%d.", block, j), ch, c.downDepths(i), j, c)
			in = ch
			skips = append(skips, ch)
		}
		if i < levels-1 {
			t.Conv(block+"downsamplers.0.conv", ch, ch, 3)
			skips = append(skips, ch)
		}
	}
	if c.mid() != MidNone {
		t.resnet("mid_block.resnets.0.", in, in, wide)
	}
	if c.mid() == MidAttention {
		t.transformer("mid_block.attentions.0.", in, c.levelDepths(levels-1), 0, c)
		t.resnet("mid_block.resnets.1.", in, in, wide)
	}
	for i := range levels {
		level := levels - 1 - i
		ch := c.BlockOutChannels[level]
		block := fmt.Sprintf("up_blocks.%d.", i)
		for j := range c.LayersPerBlock.at(level) + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			t.resnet(fmt.Sprintf("%sresnets.%d.", block, j), in+skip, ch, wide)
			t.transformer(fmt.Sprintf("%sattentions.%d.", block, j), ch, c.upDepths(i), j, c)
			in = ch
		}
		if i < levels-1 {
			t.Conv(block+"upsamplers.0.conv", ch, ch, 3)
		}
	}
	t.Norm("conv_norm_out", in)
	t.Conv("conv_out", in, c.OutChannels, 3)
	return t.StateDict
}

type stateDict struct{ nn.StateDict }

func (t stateDict) resnet(name string, in, out, wide int) {
	t.Norm(name+"norm1", in)
	t.Conv(name+"conv1", in, out, 3)
	t.Linear(name+"time_emb_proj", wide, out)
	t.Norm(name+"norm2", out)
	t.Conv(name+"conv2", out, out, 3)
	if in != out {
		t.Conv(name+"conv_shortcut", in, out, 1)
	}
}

// transformer is attention j of a block with these depths, which are nil where the block has none.
func (t stateDict) transformer(name string, ch int, depths intList, j int, c *Config) {
	if depths == nil {
		return
	}
	t.Norm(name+"norm", ch)
	for _, proj := range []string{"proj_in", "proj_out"} {
		if c.LinearProjection {
			t.Linear(name+proj, ch, ch)
		} else {
			t.Conv(name+proj, ch, ch, 1)
		}
	}
	for k := range depths.at(j) {
		block := fmt.Sprintf("%stransformer_blocks.%d.", name, k)
		for _, attention := range []struct {
			name string
			from int
		}{{"attn1.", ch}, {"attn2.", c.CrossAttentionDim}} {
			t.Matrix(block+attention.name+"to_q", ch, ch)
			t.Matrix(block+attention.name+"to_k", attention.from, ch)
			t.Matrix(block+attention.name+"to_v", attention.from, ch)
			t.Linear(block+attention.name+"to_out.0", ch, ch)
		}
		t.Linear(block+"ff.net.0.proj", ch, 8*ch)
		t.Linear(block+"ff.net.2", 4*ch, ch)
		for _, norm := range []string{"norm1", "norm2", "norm3"} {
			t.Norm(block+norm, ch)
		}
	}
}
