package unet

import (
	"fmt"

	"fewstep/model/nn"
)

// Inputs of the network, in order.
const (
	InSample  = iota // noisy latents [B, H, W, in_channels]
	InTime           // network timestep index [B] (paper timestep − 1)
	InText           // text tokens [B, T, cross_attention_dim]
	InPooled         // pooled text [B, pooled]
	InTimeIDs        // micro-conditions [B, 6]
)

// Network is the whole UNet: its five inputs to the prediction [B, H, W, out_channels] in the sample's dtype.
// lora, if not nil, puts adapters on every linear and convolution except conv_in, conv_out and the embeddings.
func (c *Config) Network(name string, lora *nn.LoRA) nn.Block {
	return nn.Block{
		Kind: "unet(" + c.signature() + ")", Name: name, Level: nn.Network, LoRA: lora,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h, skips, temb := c.encode(r, in)
			return []nn.Value{c.decode(r, h, skips, temb, in)}
		},
	}
}

// Encoder is conv_in, the embeddings, the down blocks and the mid block: the five inputs to the mid block's
// features [B, H/2ⁿ, W/2ⁿ, C]. It is the discriminator's backbone (3.3).
func (c *Config) Encoder(name string) nn.Block {
	return nn.Block{
		Kind: "encoder(" + c.signature() + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h, _, _ := c.encode(r, in)
			return []nn.Value{h}
		},
	}
}

func (c *Config) signature() string {
	return fmt.Sprintf("%d,%d,%v,%v,%v,%d,%v,%v,%d,%t,%d,%d,%d,%g", c.InChannels, c.OutChannels, c.BlockOutChannels,
		c.DownBlockTypes, c.UpBlockTypes, c.LayersPerBlock, c.TransformerLayers, c.heads(), c.CrossAttentionDim,
		c.LinearProjection, c.AdditionTimeDim, c.ProjectionDim, c.NormGroups, c.NormEps)
}

func (c *Config) encode(r nn.Runner, in []nn.Value) (h nn.Value, skips []nn.Value, temb nn.Value) {
	temb = nn.One(r, c.timeEmbedding(), in[InTime], in[InPooled], in[InTimeIDs])
	h = nn.One(r, c.convIn(), in[InSample])
	skips = []nn.Value{h}
	for i := range c.BlockOutChannels {
		out := r.Run(c.downBlock(i), h, temb, in[InText])
		skips = append(skips, out...)
		h = out[len(out)-1]
	}
	return nn.One(r, c.midBlock(), h, temb, in[InText]), skips, temb
}

func (c *Config) decode(r nn.Runner, h nn.Value, skips []nn.Value, temb nn.Value, in []nn.Value) nn.Value {
	levels := len(c.BlockOutChannels)
	for i := range levels {
		n := c.LayersPerBlock + 1
		args := append([]nn.Value{h, temb, in[InText]}, skips[len(skips)-n:]...)
		skips = skips[:len(skips)-n]
		h = nn.One(r, c.upBlock(i), args...)
	}
	return nn.One(r, c.convOut(), h, in[InSample])
}

// downBlock returns every layer's output (the skips); the last is the block's output.
func (c *Config) downBlock(i int) nn.Block {
	last := i == len(c.BlockOutChannels)-1
	ch, heads, depth := c.BlockOutChannels[i], c.heads().at(i), c.depth(c.DownBlockTypes[i], i)
	return nn.Block{
		Kind: fmt.Sprintf("down(%d,%d,%d,%t,%d,%t,%d,%g)", ch, heads, depth, last, c.LayersPerBlock, c.LinearProjection, c.NormGroups, c.NormEps),
		Name: fmt.Sprintf("down_blocks.%d", i), Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) (out []nn.Value) {
			h, temb, text := in[0], in[1], in[2]
			for j := range c.LayersPerBlock {
				h = nn.One(r, c.resnet(fmt.Sprintf("resnets.%d", j), ch, false), h, temb)
				if depth > 0 {
					h = nn.One(r, c.transformer(fmt.Sprintf("attentions.%d", j), ch, heads, depth), h, text)
				}
				out = append(out, h)
			}
			if !last {
				out = append(out, nn.One(r, conv("downsamplers.0", ch, 2, false, false), h))
			}
			return out
		},
	}
}

func (c *Config) midBlock() nn.Block {
	n := len(c.BlockOutChannels) - 1
	ch, heads, depth := c.BlockOutChannels[n], c.heads().at(n), c.TransformerLayers.at(n)
	return nn.Block{
		Kind: fmt.Sprintf("mid(%d,%d,%d,%t,%d,%g)", ch, heads, depth, c.LinearProjection, c.NormGroups, c.NormEps),
		Name: "mid_block", Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := nn.One(r, c.resnet("resnets.0", ch, false), in[0], in[1])
			h = nn.One(r, c.transformer("attentions.0", ch, heads, depth), h, in[2])
			return r.Run(c.resnet("resnets.1", ch, false), h, in[1])
		},
	}
}

// upBlock i counts from the coarsest level; its inputs are h, temb, text and the skips, newest last.
func (c *Config) upBlock(i int) nn.Block {
	levels := len(c.BlockOutChannels)
	level, last := levels-1-i, i == levels-1
	ch, heads, depth := c.BlockOutChannels[level], c.heads().at(level), c.depth(c.UpBlockTypes[i], level)
	return nn.Block{
		Kind: fmt.Sprintf("up(%d,%d,%d,%t,%d,%t,%d,%g)", ch, heads, depth, last, c.LayersPerBlock, c.LinearProjection, c.NormGroups, c.NormEps),
		Name: fmt.Sprintf("up_blocks.%d", i), Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h, temb, text, skips := in[0], in[1], in[2], in[3:]
			for j := range c.LayersPerBlock + 1 {
				skip := skips[len(skips)-1-j]
				h = nn.One(r, c.resnet(fmt.Sprintf("resnets.%d", j), ch, true), h, temb, skip)
				if depth > 0 {
					h = nn.One(r, c.transformer(fmt.Sprintf("attentions.%d", j), ch, heads, depth), h, text)
				}
			}
			if !last {
				h = nn.One(r, conv("upsamplers.0", ch, 1, true, false), h)
			}
			return []nn.Value{h}
		},
	}
}
