package vae

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// resnet is diffusers' ResnetBlock2D without a time embedding.
func (c *Config) resnet(name string, out int) nn.Block {
	groups := c.NormGroups
	return nn.Block{
		Kind: fmt.Sprintf("vae_resnet(%d,%d)", out, groups), Name: name,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x := in[0]
			h := s.Conv("conv1", nn.SiLU(s.GroupNorm("norm1", x, groups, normEps)), out, 3, 1, 1)
			h = s.Conv("conv2", nn.SiLU(s.GroupNorm("norm2", h, groups, normEps)), out, 3, 1, 1)
			if x.Shape().Dim(3) != out {
				x = s.Conv("conv_shortcut", x, out, 1, 1, 0)
			}
			return []*graph.Node{graph.Add(x, h)}
		},
	}
}

// attention is the mid block's single-head self-attention over all positions.
func (c *Config) attention(name string) nn.Block {
	groups := c.NormGroups
	return nn.Block{
		Kind: fmt.Sprintf("vae_attention(%d)", groups), Name: name,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x := in[0]
			d := x.Shape().Dimensions
			h := graph.Reshape(s.GroupNorm("group_norm", x, groups, normEps), d[0], d[1]*d[2], d[3])
			q := s.Linear("to_q", h, d[3], true)
			k := s.Linear("to_k", h, d[3], true)
			v := s.Linear("to_v", h, d[3], true)
			h = s.Linear("to_out.0", nn.Attention(q, k, v, 1, nil), d[3], true)
			return []*graph.Node{graph.Add(x, graph.Reshape(h, d...))}
		},
	}
}

// midBlock is resnet, attention, resnet at the coarsest level.
func (c *Config) midBlock() nn.Block {
	ch := c.BlockOutChannels[len(c.BlockOutChannels)-1]
	return nn.Block{
		Kind: fmt.Sprintf("vae_mid(%d,%d,%t)", ch, c.NormGroups, c.MidAttention), Name: "mid_block", Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := nn.One(r, c.resnet("resnets.0", ch), in[0])
			if c.MidAttention {
				h = nn.One(r, c.attention("attentions.0"), h)
			}
			return r.Run(c.resnet("resnets.1", ch), h)
		},
	}
}

// downBlock is DownEncoderBlock2D; all but the last level end with a halving of height and width.
func (c *Config) downBlock(i int) nn.Block {
	ch, last := c.BlockOutChannels[i], i == len(c.BlockOutChannels)-1
	return nn.Block{
		Kind: fmt.Sprintf("vae_down(%d,%d,%d,%t)", ch, c.LayersPerBlock, c.NormGroups, last),
		Name: fmt.Sprintf("down_blocks.%d", i), Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := in[0]
			for j := range c.LayersPerBlock {
				h = nn.One(r, c.resnet(fmt.Sprintf("resnets.%d", j), ch), h)
			}
			if !last {
				h = nn.One(r, downsample(ch), h)
			}
			return []nn.Value{h}
		},
	}
}

// upBlock i of UpDecoderBlock2D counts from the coarsest level; all but the last double height and width.
func (c *Config) upBlock(i int) nn.Block {
	levels := len(c.BlockOutChannels)
	ch, last := c.BlockOutChannels[levels-1-i], i == levels-1
	return nn.Block{
		Kind: fmt.Sprintf("vae_up(%d,%d,%d,%t)", ch, c.LayersPerBlock, c.NormGroups, last),
		Name: fmt.Sprintf("up_blocks.%d", i), Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := in[0]
			for j := range c.LayersPerBlock + 1 {
				h = nn.One(r, c.resnet(fmt.Sprintf("resnets.%d", j), ch), h)
			}
			if !last {
				h = nn.One(r, upsample(ch), h)
			}
			return []nn.Value{h}
		},
	}
}

func downsample(ch int) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("vae_downsample(%d)", ch), Name: "downsamplers.0",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{s.ConvDownVAE("conv", in[0], ch)}
		},
	}
}

func upsample(ch int) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("vae_upsample(%d)", ch), Name: "upsamplers.0",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{s.Conv("conv", nn.Upsample2(in[0]), ch, 3, 1, 1)}
		},
	}
}

// conv is a convolution in the compute dtype whose parameters stand directly below the enclosing scope.
func conv(name string, out, kernel int) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("vae_conv(%s,%d,%d)", name, out, kernel),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{s.Conv(name, graph.ConvertDType(in[0], s.Compute), out, kernel, 1, kernel/2)}
		},
	}
}

// convOut is group norm, SiLU and the last 3×3 convolution.
func (c *Config) convOut(out int) nn.Block {
	groups := c.NormGroups
	return nn.Block{
		Kind: fmt.Sprintf("vae_conv_out(%d,%d)", out, groups),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			h := nn.SiLU(s.GroupNorm("conv_norm_out", in[0], groups, normEps))
			return []*graph.Node{s.Conv("conv_out", h, out, 3, 1, 1)}
		},
	}
}
