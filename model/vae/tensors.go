package vae

import "fmt"

// Tensors are the names and shapes of the autoencoder's state dict, in PyTorch's layout.
func (c *Config) Tensors() map[string][]int {
	t := stateDict{}
	z := c.LatentChannels
	levels := len(c.BlockOutChannels)
	coarse := c.BlockOutChannels[levels-1]
	if c.QuantConv {
		t.conv("quant_conv", 2*z, 2*z, 1)
	}
	if c.PostQuantConv {
		t.conv("post_quant_conv", z, z, 1)
	}
	in := c.BlockOutChannels[0]
	t.conv("encoder.conv_in", c.InChannels, in, 3)
	for i, ch := range c.BlockOutChannels {
		block := fmt.Sprintf("encoder.down_blocks.%d.", i)
		for j := range c.LayersPerBlock {
			t.resnet(fmt.Sprintf("%sresnets.%d.", block, j), in, ch)
			in = ch
		}
		if i < levels-1 {
			t.conv(block+"downsamplers.0.conv", ch, ch, 3)
		}
	}
	t.middle("encoder.mid_block.", coarse, c.MidAttention)
	t.norm("encoder.conv_norm_out", coarse)
	t.conv("encoder.conv_out", coarse, 2*z, 3)

	t.conv("decoder.conv_in", z, coarse, 3)
	t.middle("decoder.mid_block.", coarse, c.MidAttention)
	in = coarse
	for i := range levels {
		ch := c.BlockOutChannels[levels-1-i]
		block := fmt.Sprintf("decoder.up_blocks.%d.", i)
		for j := range c.LayersPerBlock + 1 {
			t.resnet(fmt.Sprintf("%sresnets.%d.", block, j), in, ch)
			in = ch
		}
		if i < levels-1 {
			t.conv(block+"upsamplers.0.conv", ch, ch, 3)
		}
	}
	t.norm("decoder.conv_norm_out", in)
	t.conv("decoder.conv_out", in, c.OutChannels, 3)
	return t
}

type stateDict map[string][]int

func (t stateDict) norm(name string, width int) {
	t[name+".weight"], t[name+".bias"] = []int{width}, []int{width}
}

func (t stateDict) conv(name string, in, out, kernel int) {
	t[name+".weight"], t[name+".bias"] = []int{out, in, kernel, kernel}, []int{out}
}

func (t stateDict) resnet(name string, in, out int) {
	t.norm(name+"norm1", in)
	t.conv(name+"conv1", in, out, 3)
	t.norm(name+"norm2", out)
	t.conv(name+"conv2", out, out, 3)
	if in != out {
		t.conv(name+"conv_shortcut", in, out, 1)
	}
}

func (t stateDict) middle(name string, ch int, attention bool) {
	t.resnet(name+"resnets.0.", ch, ch)
	t.resnet(name+"resnets.1.", ch, ch)
	if !attention {
		return
	}
	t.norm(name+"attentions.0.group_norm", ch)
	for _, proj := range []string{"to_q", "to_k", "to_v", "to_out.0"} {
		t[name+"attentions.0."+proj+".weight"], t[name+"attentions.0."+proj+".bias"] = []int{ch, ch}, []int{ch}
	}
}
