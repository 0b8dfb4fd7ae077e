package unet

import (
	"fmt"

	"fewstep/model/family"
	"fewstep/model/nn"
)

// Inputs of the network, in order; see [family.Denoiser].
const (
	inSample  = family.Sample    // noisy latents [B, H, W, in_channels]
	inTime    = family.Time      // network timestep index [B] (paper timestep − 1)
	inText    = family.Given     // text tokens [B, T, cross_attention_dim]
	inPooled  = family.Given + 1 // pooled text [B, pooled], if it is told that
	inTimeIDs = family.Given + 2 // micro-conditions [B, 6], likewise
)

// Conditions implements family.Denoiser.
func (c *Config) Conditions(tokens int) []family.Condition {
	text := family.Condition{Name: family.Text, Dims: []int{tokens, c.CrossAttentionDim}, Caption: true}
	if !c.Added() {
		return []family.Condition{text}
	}
	return []family.Condition{text, {Name: family.Pooled, Dims: []int{c.PooledDim()}, Caption: true}, {Name: family.Sizes, Dims: []int{TimeIDs}}}
}

// Channels implements family.Denoiser.
func (c *Config) Channels() int { return c.InChannels }

// Levels implements family.Denoiser.
func (c *Config) Levels() int { return len(c.BlockOutChannels) }

// Widths implements family.Critic.
func (c *Config) Widths() []int { return c.BlockOutChannels }

// Groups implements family.Critic.
func (c *Config) Groups() int { return c.NormGroups }

// Network is the whole UNet: its inputs to the prediction [B, H, W, out_channels] in the sample's dtype.
// lora, if not nil, puts adapters on every linear and convolution except conv_in, conv_out and the embeddings.
func (c *Config) Network(name string, lora *nn.LoRA) nn.Block {
	return nn.Block{
		Kind: "unet(" + c.signature() + ")", Name: name, Level: nn.Network, LoRA: lora,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			seen := c.see(r, in)
			h, skips := c.encode(r, in[inSample], seen)
			return []nn.Value{c.decode(r, h, skips, seen, in[inSample])}
		},
	}
}

// Features is the network up to what its last convolution, conv_out, takes: its inputs to [B, H, W, C] in f32.
func (c *Config) Features(name string, lora *nn.LoRA) nn.Block {
	return nn.Block{
		Kind: "features(" + c.signature() + ")", Name: name, Level: nn.Network, LoRA: lora,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			seen := c.see(r, in)
			h, skips := c.encode(r, in[inSample], seen)
			return r.Run(c.lastFeatures(), c.up(r, h, skips, seen))
		},
	}
}

// Encoder is conv_in, the embeddings, the down blocks and the mid block: its inputs to the mid block's
// features [B, H/2ⁿ, W/2ⁿ, C]. It is the discriminator's backbone (3.3).
func (c *Config) Encoder(name string) nn.Block {
	return nn.Block{
		Kind: "encoder(" + c.signature() + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h, _ := c.encode(r, in[inSample], c.see(r, in))
			return []nn.Value{h}
		},
	}
}

// EncoderLevels is Encoder with the features of every level: the mid block's, then the last of each down block, from the
// largest on.
func (c *Config) EncoderLevels(name string) nn.Block {
	return nn.Block{
		Kind: "encoder_levels(" + c.signature() + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h, skips := c.encode(r, in[inSample], c.see(r, in))
			out, at := []nn.Value{h}, 0 // skips[0] is conv_in's
			for i := range c.BlockOutChannels {
				at += c.LayersPerBlock.at(i)
				if i < len(c.BlockOutChannels)-1 {
					at++ // the downsampler's
				}
				out = append(out, skips[at])
			}
			return out
		},
	}
}

func (c *Config) signature() string {
	mid := ""
	if c.mid() != MidAttention {
		mid = "mid=" + string(c.mid()) + ","
	}
	return mid + fmt.Sprintf("%d,%d,%v,%v,%v,%v,%v,%v,%v,%v,%d,%t,%t,%d,%d,%d,%g", c.InChannels, c.OutChannels, c.BlockOutChannels,
		c.DownBlockTypes, c.UpBlockTypes, c.LayersPerBlock, c.TransformerLayers, c.DownDepths, c.UpDepths, c.AttentionHeads,
		c.CrossAttentionDim, c.LinearProjection, c.UpcastAttention, c.AdditionTimeDim, c.ProjectionDim, c.NormGroups, c.NormEps)
}

// layerSignature is what every resnet and transformer of the network shares.
func (c *Config) layerSignature() string {
	return fmt.Sprintf("%t,%t,%d,%g", c.LinearProjection, c.UpcastAttention, c.NormGroups, c.NormEps)
}

// conditions are what a network's blocks see beside their input.
type conditions struct{ temb, text nn.Value }

func (c *Config) see(r nn.Runner, in []nn.Value) conditions {
	told := []nn.Value{in[inTime], in[inText]}
	if c.Added() {
		told = []nn.Value{in[inTime], in[inPooled], in[inTimeIDs], in[inText]}
	}
	out := r.Run(c.conditioning(), told...)
	return conditions{temb: out[0], text: out[1]}
}

func (c *Config) encode(r nn.Runner, x nn.Value, seen conditions) (h nn.Value, skips []nn.Value) {
	h = nn.One(r, c.convIn(), x)
	skips = []nn.Value{h}
	for i := range c.BlockOutChannels {
		out := r.Run(c.downBlock(i), h, seen.temb, seen.text)
		skips = append(skips, out...)
		h = out[len(out)-1]
	}
	if c.mid() == MidNone {
		return h, skips
	}
	return nn.One(r, c.midBlock(), h, seen.temb, seen.text), skips
}

func (c *Config) decode(r nn.Runner, h nn.Value, skips []nn.Value, seen conditions, x nn.Value) nn.Value {
	return nn.One(r, c.convOut(), c.up(r, h, skips, seen), x)
}

func (c *Config) up(r nn.Runner, h nn.Value, skips []nn.Value, seen conditions) nn.Value {
	levels := len(c.BlockOutChannels)
	for i := range levels {
		n := c.LayersPerBlock.at(levels-1-i) + 1
		args := append([]nn.Value{h, seen.temb, seen.text}, skips[len(skips)-n:]...)
		skips = skips[:len(skips)-n]
		h = nn.One(r, c.upBlock(i), args...)
	}
	return h
}

// downBlock returns every layer's output (the skips); the last is the block's output.
func (c *Config) downBlock(i int) nn.Block {
	last := i == len(c.BlockOutChannels)-1
	ch, heads, depths, layers := c.BlockOutChannels[i], c.AttentionHeads.at(i), c.downDepths(i), c.LayersPerBlock.at(i)
	return nn.Block{
		Kind: fmt.Sprintf("down(%d,%d,%v,%t,%d,%s)", ch, heads, depths, last, layers, c.layerSignature()),
		Name: fmt.Sprintf("down_blocks.%d", i), Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) (out []nn.Value) {
			h, temb, text := in[0], in[1], in[2]
			for j := range layers {
				h = nn.One(r, c.resnet(fmt.Sprintf("resnets.%d", j), ch, false), h, temb)
				if depths != nil {
					h = nn.One(r, c.transformer(fmt.Sprintf("attentions.%d", j), ch, heads, depths.at(j)), h, text)
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
	ch, heads, depth := c.BlockOutChannels[n], c.AttentionHeads.at(n), c.levelDepths(n)[0]
	if c.mid() == MidResnet {
		return nn.Block{
			Kind: fmt.Sprintf("mid_resnet(%d,%s)", ch, c.layerSignature()),
			Name: "mid_block", Level: nn.Stage,
			Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
				return r.Run(c.resnet("resnets.0", ch, false), in[0], in[1])
			},
		}
	}
	return nn.Block{
		Kind: fmt.Sprintf("mid(%d,%d,%d,%s)", ch, heads, depth, c.layerSignature()),
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
	ch, heads, depths, layers := c.BlockOutChannels[level], c.AttentionHeads.at(level), c.upDepths(i), c.LayersPerBlock.at(level)+1
	return nn.Block{
		Kind: fmt.Sprintf("up(%d,%d,%v,%t,%d,%s)", ch, heads, depths, last, layers, c.layerSignature()),
		Name: fmt.Sprintf("up_blocks.%d", i), Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h, temb, text, skips := in[0], in[1], in[2], in[3:]
			for j := range layers {
				skip := skips[len(skips)-1-j]
				h = nn.One(r, c.resnet(fmt.Sprintf("resnets.%d", j), ch, true), h, temb, skip)
				if depths != nil {
					h = nn.One(r, c.transformer(fmt.Sprintf("attentions.%d", j), ch, heads, depths.at(j)), h, text)
				}
			}
			if !last {
				h = nn.One(r, conv("upsamplers.0", ch, 1, true, false), h)
			}
			return []nn.Value{h}
		},
	}
}
