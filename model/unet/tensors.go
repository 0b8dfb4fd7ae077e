package unet

import "fmt"

// Tensors are the names and shapes of the network's state dict, in PyTorch's layout.
func (c *Config) Tensors() map[string][]int {
	t := stateDict{}
	wide := 4 * c.BlockOutChannels[0]
	t.conv("conv_in", c.InChannels, c.BlockOutChannels[0], 3)
	t.linear("time_embedding.linear_1", c.BlockOutChannels[0], wide, true)
	t.linear("time_embedding.linear_2", wide, wide, true)
	t.linear("add_embedding.linear_1", c.ProjectionDim, wide, true)
	t.linear("add_embedding.linear_2", wide, wide, true)
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
			t.conv(block+"downsamplers.0.conv", ch, ch, 3)
			skips = append(skips, ch)
		}
	}
	t.resnet("mid_block.resnets.0.", in, in, wide)
	t.transformer("mid_block.attentions.0.", in, c.levelDepths(levels-1), 0, c)
	t.resnet("mid_block.resnets.1.", in, in, wide)
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
			t.conv(block+"upsamplers.0.conv", ch, ch, 3)
		}
	}
	t.norm("conv_norm_out", in)
	t.conv("conv_out", in, c.OutChannels, 3)
	return t
}

type stateDict map[string][]int

func (t stateDict) norm(name string, width int) {
	t[name+".weight"], t[name+".bias"] = []int{width}, []int{width}
}

func (t stateDict) linear(name string, in, out int, bias bool) {
	t[name+".weight"] = []int{out, in}
	if bias {
		t[name+".bias"] = []int{out}
	}
}

func (t stateDict) conv(name string, in, out, kernel int) {
	t[name+".weight"], t[name+".bias"] = []int{out, in, kernel, kernel}, []int{out}
}

func (t stateDict) resnet(name string, in, out, wide int) {
	t.norm(name+"norm1", in)
	t.conv(name+"conv1", in, out, 3)
	t.linear(name+"time_emb_proj", wide, out, true)
	t.norm(name+"norm2", out)
	t.conv(name+"conv2", out, out, 3)
	if in != out {
		t.conv(name+"conv_shortcut", in, out, 1)
	}
}

// transformer is attention j of a block with these depths, which are nil where the block has none.
func (t stateDict) transformer(name string, ch int, depths intList, j int, c *Config) {
	if depths == nil {
		return
	}
	t.norm(name+"norm", ch)
	for _, proj := range []string{"proj_in", "proj_out"} {
		if c.LinearProjection {
			t.linear(name+proj, ch, ch, true)
		} else {
			t.conv(name+proj, ch, ch, 1)
		}
	}
	for k := range depths.at(j) {
		block := fmt.Sprintf("%stransformer_blocks.%d.", name, k)
		for _, attention := range []struct {
			name string
			from int
		}{{"attn1.", ch}, {"attn2.", c.CrossAttentionDim}} {
			t.linear(block+attention.name+"to_q", ch, ch, false)
			t.linear(block+attention.name+"to_k", attention.from, ch, false)
			t.linear(block+attention.name+"to_v", attention.from, ch, false)
			t.linear(block+attention.name+"to_out.0", ch, ch, true)
		}
		t.linear(block+"ff.net.0.proj", ch, 8*ch, true)
		t.linear(block+"ff.net.2", 4*ch, ch, true)
		for _, norm := range []string{"norm1", "norm2", "norm3"} {
			t.norm(block+norm, ch)
		}
	}
}
