package bench

import (
	"fewstep/model/unet"
	"fewstep/model/vae"
)

// Preset is a network and the shape of its inputs.
type Preset struct {
	UNet   *unet.Config
	VAE    *vae.Config
	Side   int // latent side
	Tokens int
}

// Presets of the yardstick.
var Presets = map[string]Preset{
	"mini": {UNet: sdxl([]int{32, 64, 128}, []int{1, 2, 4}, []int{1, 1, 2}, 128, 384, 32), VAE: autoencoder(32, 64, 64), Side: 16, Tokens: 77},
	"sd15": {UNet: sd([]int{8}, 768, false), VAE: autoencoder(128, 256, 512, 512), Side: 64, Tokens: 77},
	"sd21": {UNet: sd([]int{5, 10, 20, 20}, 1024, true), VAE: autoencoder(128, 256, 512, 512), Side: 96, Tokens: 77},
	"sdxl": {UNet: sdxl([]int{320, 640, 1280}, []int{5, 10, 20}, []int{1, 2, 10}, 2048, 2816, 256), VAE: autoencoder(128, 256, 512, 512), Side: 128, Tokens: 77},
}

func sdxl(widths, heads, depth []int, text, added, timeDim int) *unet.Config {
	return &unet.Config{InChannels: 4, OutChannels: 4, BlockOutChannels: widths, LayersPerBlock: []int{2},
		DownBlockTypes:    []string{"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
		UpBlockTypes:      []string{"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"},
		TransformerLayers: depth, AttentionHeads: heads, CrossAttentionDim: text, LinearProjection: true,
		AdditionTimeDim: timeDim, ProjectionDim: added, NormGroups: 32, NormEps: 1e-5}
}

// sd is a UNet of Stable Diffusion 1's and 2's widths.
func sd(heads []int, text int, version2 bool) *unet.Config {
	return &unet.Config{InChannels: 4, OutChannels: 4, BlockOutChannels: []int{320, 640, 1280, 1280}, LayersPerBlock: []int{2},
		DownBlockTypes:    []string{"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"},
		UpBlockTypes:      []string{"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"},
		TransformerLayers: []int{1}, AttentionHeads: heads, CrossAttentionDim: text, LinearProjection: version2, UpcastAttention: version2,
		NormGroups: 32, NormEps: 1e-5}
}

func autoencoder(widths ...int) *vae.Config {
	return &vae.Config{InChannels: 3, OutChannels: 3, LatentChannels: 4, BlockOutChannels: widths, LayersPerBlock: 2,
		NormGroups: 32, ActFn: "silu", MidAttention: true, QuantConv: true, PostQuantConv: true, ScalingFactor: 0.13025}
}
