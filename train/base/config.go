// Package base trains a small text-to-image model from nothing, in diffusers' layout: autoencoder, CLIP pair, UNet,
// with the ordinary losses. It made the embedded mini pipeline, and it fine-tunes a teacher on other data.
package base

import (
	"fewstep/configs"
	"fmt"
)

// Config is a base-training recipe.
type Config struct {
	Seed       uint64   `yaml:"seed"`       // all randomness derives from it
	Model      string   `yaml:"model"`      // diffusers directory: configs are read from it, weights written to it
	Data       string   `yaml:"data"`       // captioned images
	Resolution int      `yaml:"resolution"` // side of the square images in pixels
	Compute    string   `yaml:"compute"`    // f32 or bf16
	Captions   Captions `yaml:"captions"`   // which of an image's captions is used

	CheckpointMinutes float64 `yaml:"checkpoint_minutes"` // the training's state is saved so often

	VAE  VAEPart  `yaml:"vae"`
	CLIP Part     `yaml:"clip"`
	UNet UNetPart `yaml:"unet"`
}

// Captions are the probabilities of an image's captions.
type Captions struct {
	Fine   float64 `yaml:"fine"`
	Kind   float64 `yaml:"kind"`
	Coarse float64 `yaml:"coarse"`
}

// Part is the training of one component.
type Part struct {
	Samples     int64   `yaml:"samples"`      // images seen; 0 = skip this part
	Batch       int     `yaml:"batch"`        // images per update
	LR          float64 `yaml:"lr"`           // peak learning rate: linear warm-up, then cosine to a hundredth
	Warmup      int64   `yaml:"warmup"`       // samples of warm-up
	WeightDecay float64 `yaml:"weight_decay"` // decoupled
	ClipNorm    float64 `yaml:"clip_norm"`    // largest gradient norm; 0 = off
	EMA         float64 `yaml:"ema"`          // decay of the averaged weights that are saved; 0 = off
}

// VAEPart adds what only the autoencoder has.
type VAEPart struct {
	Part `yaml:",inline"`
	Crop int `yaml:"crop"` // side of the squares that are cut from images at random for training, in pixels; 0 = whole images
}

// UNetPart adds what only the diffusion loss has.
type UNetPart struct {
	Part        `yaml:",inline"`
	Dropout     float64 `yaml:"dropout"`      // share of samples without caption (zero embeddings), for guidance
	MinSNR      float64 `yaml:"min_snr"`      // γ of the min-SNR weighting; 0 = plain ε loss
	NoiseOffset float64 `yaml:"noise_offset"` // deviation of a constant per channel added to ε; 0 = off. Small latents show their mean colour even at t = T, so that without it a model never learns colours from the text
	Resume      bool    `yaml:"resume"`       // start from the weights in the model directory
}

// Load reads and checks a recipe; unknown keys are errors.
func Load(path string) (*Config, error) {
	c := &Config{Resolution: 64, Compute: "f32", CheckpointMinutes: 5, Captions: Captions{Fine: 1}}
	if err := configs.ReadStrict(path, c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Validate says in a sentence what cannot work.
func (c *Config) Validate() error {
	if c.Model == "" || c.Data == "" {
		return fmt.Errorf("model and data must be given: a diffusers directory with config files, and captioned images")
	}
	if c.Resolution < 8 || c.Resolution%8 != 0 {
		return fmt.Errorf("resolution is %d; it must be a positive multiple of 8", c.Resolution)
	}
	if c.Compute != "f32" && c.Compute != "bf16" {
		return fmt.Errorf("compute is %q; choose f32 or bf16", c.Compute)
	}
	for _, p := range []struct {
		name string
		part Part
	}{{"vae", c.VAE.Part}, {"clip", c.CLIP}, {"unet", c.UNet.Part}} {
		if p.part.Samples < 0 || p.part.Samples > 0 && (p.part.Batch < 1 || p.part.LR <= 0) {
			return fmt.Errorf("%s: samples must not be negative, and batch and lr must be positive", p.name)
		}
	}
	if c.VAE.Crop < 0 || c.VAE.Crop > c.Resolution || c.VAE.Crop%8 != 0 {
		return fmt.Errorf("vae: crop is %d; it must be a multiple of 8 of at most resolution (%d), or 0 for whole images", c.VAE.Crop, c.Resolution)
	}
	if c.CheckpointMinutes <= 0 {
		return fmt.Errorf("checkpoint_minutes is %g; it must be positive", c.CheckpointMinutes)
	}
	if c.CLIP.Samples > 0 && c.CLIP.Batch < 2 {
		return fmt.Errorf("clip: batch is %d; the contrastive loss needs at least 2", c.CLIP.Batch)
	}
	return nil
}

// Only keeps one part: vae, clip or unet.
func (c *Config) Only(part string) error {
	keep := map[string]*int64{"vae": &c.VAE.Samples, "clip": &c.CLIP.Samples, "unet": &c.UNet.Samples}
	if _, ok := keep[part]; !ok {
		return fmt.Errorf("unknown part %q: choose vae, clip or unet", part)
	}
	for name, samples := range keep {
		if name != part {
			*samples = 0
		}
	}
	return nil
}
