package vae

import (
	"fmt"

	"fewstep/model/nn"
)

// Tensors are the names and shapes of the autoencoder's state dict, in PyTorch's layout.
func (c *Config) Tensors() map[string][]int {
	t := stateDict{nn.StateDict{}}
	z := c.LatentChannels
	levels := len(c.BlockOutChannels)
	coarse := c.BlockOutChannels[levels-1]
	if c.QuantConv {
		t.Conv("quant_conv", 2*z, 2*z, 1)
	}
	if c.PostQuantConv {
		t.Conv("post_quant_conv", z, z, 1)
	}
	in := c.BlockOutChannels[0]
	t.Conv("encoder.conv_in", c.InChannels, in, 3)
	for i, ch := range c.BlockOutChannels {
		block := fmt.Sprintf("encoder.down_blocks.%d.", i)
		for j := range c.LayersPerBlock {
			t.resnet(fmt.Sprintf("%sresnets.%d.", block, j), in, ch)
			in = ch
		}
		if i < levels-1 {
			t.Conv(block+"downsamplers.0.conv", ch, ch, 3)
		}
	}
	t.middle("encoder.mid_block.", coarse, c.MidAttention)
	t.Norm("encoder.conv_norm_out", coarse)
	t.Conv("encoder.conv_out", coarse, 2*z, 3)

	t.Conv("decoder.conv_in", z, coarse, 3)
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
			t.Conv(block+"upsamplers.0.conv", ch, ch, 3)
		}
	}
	t.Norm("decoder.conv_norm_out", in)
	t.Conv("decoder.conv_out", in, c.OutChannels, 3)
	return t.StateDict
}

type stateDict struct{ nn.StateDict }

func (t stateDict) resnet(name string, in, out int) {
	t.Norm(name+"norm1", in)
	t.Conv(name+"conv1", in, out, 3)
	t.Norm(name+"norm2", out)
	t.Conv(name+"conv2", out, out, 3)
	if in != out {
		t.Conv(name+"conv_shortcut", in, out, 1)
	}
}

func (t stateDict) middle(name string, ch int, attention bool) {
	t.resnet(name+"resnets.0.", ch, ch)
	t.resnet(name+"resnets.1.", ch, ch)
	if !attention {
		return
	}
	t.Norm(name+"attentions.0.group_norm", ch)
	for _, proj := range []string{"to_q", "to_k", "to_v", "to_out.0"} {
		t.Linear(name+"attentions.0."+proj, ch, ch)
	}
}
