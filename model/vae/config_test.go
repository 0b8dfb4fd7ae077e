package vae

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const tiny = `"block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
	"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]`

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestDefaults(t *testing.T) {
	c, err := load(t, `{`+tiny+`, "shift_factor": null, "latents_mean": null}`)
	if err != nil {
		t.Fatal(err)
	}
	if !c.MidAttention || !c.QuantConv || !c.PostQuantConv || c.ScalingFactor != 0.18215 || c.LatentChannels != 4 || c.NormGroups != 32 {
		t.Errorf("absent keys do not have diffusers' defaults: %+v", c)
	}
	if c.Factor() != 2 {
		t.Errorf("factor %d, want 2", c.Factor())
	}
}

func TestLatentScale(t *testing.T) {
	c, err := load(t, `{`+tiny+`, "latent_channels": 2, "scaling_factor": 0.5, "shift_factor": 3}`)
	if err != nil {
		t.Fatal(err)
	}
	mean, scale := c.LatentScale()
	if !slices.Equal(mean, []float64{3, 3}) || !slices.Equal(scale, []float64{0.5, 0.5}) {
		t.Errorf("one shift and scale for all: mean %v, scale %v", mean, scale)
	}
	c.LatentsMean, c.LatentsStd = []float64{1, -2}, []float64{2, 0.25}
	mean, scale = c.LatentScale()
	if !slices.Equal(mean, []float64{1, -2}) || !slices.Equal(scale, []float64{0.25, 2}) {
		t.Errorf("per channel: mean %v, scale %v", mean, scale)
	}
}

func TestRefusedConfigs(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{`{`, "unexpected end"},
		{`{}`, "block_out_channels"},
		{`{"_class_name": "VQModel", ` + tiny + `}`, "VQModel"},
		{`{` + tiny + `, "act_fn": "relu"}`, `act_fn "relu"`},
		{`{` + tiny + `, "norm_num_groups": 0}`, "norm_num_groups is 0"},
		{`{` + tiny + `, "norm_num_groups": 24}`, "block_out_channels[0]=32"},
		{`{` + tiny + `, "scaling_factor": 0}`, "scaling_factor"},
		{`{` + tiny + `, "latents_mean": [1]}`, "latents_mean has 1"},
		{`{` + tiny + `, "latents_std": [1, 1, 0, 1]}`, "latents_std[2]"},
		{`{` + strings.Replace(tiny, `"UpDecoderBlock2D"]`, `"AttnUpDecoderBlock2D"]`, 1) + `}`, "up_block_types[1]"},
		{`{` + strings.Replace(tiny, `[32, 64]`, `[32]`, 1) + `}`, "1 levels"},
	} {
		if _, err := load(t, c.text); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%s: error %v, want one about %q", c.text, err, c.says)
		}
	}
}
