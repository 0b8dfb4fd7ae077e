// Package vae is diffusers' AutoencoderKL as blocks: images to the moments of their latents and back.
// Everything is read from the model's config.json; the number of levels decides the factor f = 2^(levels−1).
package vae

import (
	"fewstep/internal/text"
	"fmt"
	"os"
)

// Config holds the keys of a diffusers AutoencoderKL config.json that decide its structure and its latents' scale.
type Config struct {
	ClassName        string    `json:"_class_name"`
	SampleSize       int       `json:"sample_size"`
	InChannels       int       `json:"in_channels"`
	OutChannels      int       `json:"out_channels"`
	LatentChannels   int       `json:"latent_channels"`
	BlockOutChannels []int     `json:"block_out_channels"`
	DownBlockTypes   []string  `json:"down_block_types"`
	UpBlockTypes     []string  `json:"up_block_types"`
	LayersPerBlock   int       `json:"layers_per_block"` // the decoder's blocks have one more
	NormGroups       int       `json:"norm_num_groups"`
	ActFn            string    `json:"act_fn"`
	MidAttention     bool      `json:"mid_block_add_attention"`
	QuantConv        bool      `json:"use_quant_conv"`
	PostQuantConv    bool      `json:"use_post_quant_conv"`
	ScalingFactor    float64   `json:"scaling_factor"` // what a UNet sees is scaling_factor · (z − mean) / deviation
	ShiftFactor      float64   `json:"shift_factor"`
	LatentsMean      []float64 `json:"latents_mean"` // per channel; empty = shift_factor everywhere
	LatentsStd       []float64 `json:"latents_std"`  // per channel; empty = 1
}

// normEps is the epsilon of every group norm in AutoencoderKL; no config key sets it.
const normEps = 1e-6

// LoadConfig reads and checks a diffusers AutoencoderKL config.json. Absent keys have diffusers' defaults.
func LoadConfig(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(raw, path)
}

// ParseConfig reads and checks the content of a config.json; path is for messages.
func ParseConfig(raw []byte, path string) (*Config, error) {
	c := &Config{InChannels: 3, OutChannels: 3, LatentChannels: 4, LayersPerBlock: 1, NormGroups: 32, ActFn: "silu",
		MidAttention: true, QuantConv: true, PostQuantConv: true, ScalingFactor: 0.18215}
	if err := text.JSON(raw, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Validate says in a sentence why a config is not one that this package can build.
func (c *Config) Validate() error {
	n := len(c.BlockOutChannels)
	switch {
	case c.ClassName != "" && c.ClassName != "AutoencoderKL":
		return fmt.Errorf("this is the config of a %s, not of an AutoencoderKL", c.ClassName)
	case n == 0 || c.InChannels <= 0 || c.OutChannels <= 0 || c.LatentChannels <= 0 || c.LayersPerBlock <= 0:
		return fmt.Errorf("in_channels, out_channels, latent_channels, block_out_channels and layers_per_block must all be positive")
	case len(c.DownBlockTypes) != n || len(c.UpBlockTypes) != n:
		return fmt.Errorf("block_out_channels has %d levels, down_block_types %d and up_block_types %d: they must agree", n, len(c.DownBlockTypes), len(c.UpBlockTypes))
	case c.ActFn != "silu" && c.ActFn != "swish":
		return fmt.Errorf("act_fn %q is not supported, only silu", c.ActFn)
	case c.NormGroups <= 0:
		return fmt.Errorf("norm_num_groups is %d: it must be positive", c.NormGroups)
	case c.ScalingFactor <= 0:
		return fmt.Errorf("scaling_factor is %g: it must be positive", c.ScalingFactor)
	}
	for i := range n {
		if c.DownBlockTypes[i] != "DownEncoderBlock2D" {
			return fmt.Errorf("down_block_types[%d] is %q; only DownEncoderBlock2D is supported", i, c.DownBlockTypes[i])
		}
		if c.UpBlockTypes[i] != "UpDecoderBlock2D" {
			return fmt.Errorf("up_block_types[%d] is %q; only UpDecoderBlock2D is supported", i, c.UpBlockTypes[i])
		}
		if ch := c.BlockOutChannels[i]; ch <= 0 || ch%c.NormGroups != 0 {
			return fmt.Errorf("block_out_channels[%d]=%d does not divide into norm_num_groups=%d", i, ch, c.NormGroups)
		}
	}
	if l := len(c.LatentsMean); l != 0 && l != c.LatentChannels {
		return fmt.Errorf("latents_mean has %d entries, want one per latent channel (%d)", l, c.LatentChannels)
	}
	if l := len(c.LatentsStd); l != 0 && l != c.LatentChannels {
		return fmt.Errorf("latents_std has %d entries, want one per latent channel (%d)", l, c.LatentChannels)
	}
	for i, s := range c.LatentsStd {
		if !(s > 0) {
			return fmt.Errorf("latents_std[%d] is %g: it must be positive", i, s)
		}
	}
	return nil
}

// Factor is the number of image pixels per latent along each side.
func (c *Config) Factor() int { return 1 << (len(c.BlockOutChannels) - 1) }

// LatentScale gives for each latent channel the mean and the scale of diffusers' convention:
// the diffusion model sees (z − mean) · scale, the decoder takes that divided by scale plus mean.
func (c *Config) LatentScale() (mean, scale []float64) {
	mean, scale = make([]float64, c.LatentChannels), make([]float64, c.LatentChannels)
	for i := range c.LatentChannels {
		mean[i], scale[i] = c.ShiftFactor, c.ScalingFactor
		if len(c.LatentsMean) > 0 {
			mean[i] = c.LatentsMean[i]
		}
		if len(c.LatentsStd) > 0 {
			scale[i] /= c.LatentsStd[i]
		}
	}
	return mean, scale
}
