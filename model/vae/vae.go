package vae

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Bounds of the log-variance, as in diffusers' DiagonalGaussianDistribution.
const (
	minLogVar = -30.0
	maxLogVar = 20.0
)

// Encoder maps an image [B, H, W, in_channels] in [−1, 1] to the mean and the clamped log-variance of its latent,
// each [B, H/f, W/f, latent_channels] in f32 and not yet scaled (see [Config.LatentScale]). H and W are multiples of f.
func (c *Config) Encoder(name string) nn.Block {
	return nn.Block{
		Kind: "vae_encoder(" + c.signature() + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			moments := nn.One(r, c.encoderTrunk(), in[0])
			if c.QuantConv {
				moments = nn.One(r, conv("quant_conv", 2*c.LatentChannels, 1), moments)
			}
			return r.Run(c.moments(), moments)
		},
	}
}

// Decoder maps unscaled latents [B, h, w, latent_channels] to images [B, f·h, f·w, out_channels], about [−1, 1],
// in the latents' dtype.
func (c *Config) Decoder(name string) nn.Block {
	return nn.Block{
		Kind: "vae_decoder(" + c.signature() + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			z := in[0]
			if c.PostQuantConv {
				z = nn.One(r, conv("post_quant_conv", c.LatentChannels, 1), z)
			}
			image := nn.One(r, c.decoderTrunk(), z)
			if dtype := in[0].Shape().DType; image.Shape().DType != dtype {
				image = nn.One(r, convert(dtype), image)
			}
			return []nn.Value{image}
		},
	}
}

// Autoencoder is encoder, reparametrised sample and decoder in one: an image and standard normal noise
// [B, H/f, W/f, latent_channels] to the reconstruction, the mean and the log-variance. It uses every parameter.
func (c *Config) Autoencoder(name string) nn.Block {
	return nn.Block{
		Kind: "vae_autoencoder(" + c.signature() + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			m := r.Run(c.Encoder(""), in[0])
			image := nn.One(r, c.Decoder(""), nn.One(r, sample(), m[0], m[1], in[1]))
			return []nn.Value{image, m[0], m[1]}
		},
	}
}

func (c *Config) signature() string {
	return fmt.Sprintf("%d,%d,%d,%v,%d,%d,%t,%t,%t", c.InChannels, c.OutChannels, c.LatentChannels, c.BlockOutChannels,
		c.LayersPerBlock, c.NormGroups, c.MidAttention, c.QuantConv, c.PostQuantConv)
}

func (c *Config) encoderTrunk() nn.Block {
	return nn.Block{
		Kind: "vae_encoder_trunk(" + c.signature() + ")", Name: "encoder", Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := nn.One(r, conv("conv_in", c.BlockOutChannels[0], 3), in[0])
			for i := range c.BlockOutChannels {
				h = nn.One(r, c.downBlock(i), h)
			}
			return r.Run(c.convOut(2*c.LatentChannels), nn.One(r, c.midBlock(), h))
		},
	}
}

func (c *Config) decoderTrunk() nn.Block {
	last := c.BlockOutChannels[len(c.BlockOutChannels)-1]
	return nn.Block{
		Kind: "vae_decoder_trunk(" + c.signature() + ")", Name: "decoder", Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := nn.One(r, c.midBlock(), nn.One(r, conv("conv_in", last, 3), in[0]))
			for i := range c.BlockOutChannels {
				h = nn.One(r, c.upBlock(i), h)
			}
			return r.Run(c.convOut(c.OutChannels), h)
		},
	}
}

// moments splits the encoder's output into mean and clamped log-variance, in f32.
func (c *Config) moments() nn.Block {
	n := c.LatentChannels
	return nn.Block{
		Kind: fmt.Sprintf("vae_moments(%d)", n),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			halves := graph.Split(graph.ConvertDType(in[0], dtypes.Float32), -1, 2)
			return []*graph.Node{halves[0], graph.ClipScalar(halves[1], minLogVar, maxLogVar)}
		},
	}
}

// sample is mean + exp(logvar/2)·noise.
func sample() nn.Block {
	return nn.Block{
		Kind: "vae_sample",
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			deviation := graph.Exp(graph.MulScalar(in[1], 0.5))
			return []*graph.Node{graph.Add(in[0], graph.Mul(deviation, in[2]))}
		},
	}
}

// convert gives a network's output a dtype.
func convert(dtype dtypes.DType) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("vae_convert(%s)", dtype),
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.ConvertDType(in[0], dtype)}
		},
	}
}
