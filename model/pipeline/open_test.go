package pipeline_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/tinypipeline"

	"github.com/gomlx/compute/dtypes"
)

// change sets keys of a model's config file; nil takes one away.
func change(t *testing.T, model, file string, keys map[string]any) {
	t.Helper()
	path := filepath.Join(model, file)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{}
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	for k, v := range keys {
		if config[k] = v; v == nil {
			delete(config, k)
		}
	}
	if raw, err = json.Marshal(config); err == nil {
		err = os.WriteFile(path, raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func tiny(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	if err := tinypipeline.Model(dir, "../../model/clip/testdata"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpenSettings(t *testing.T) {
	dir := tiny(t)
	p, err := pipeline.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !p.ZeroEmpty || !strings.Contains(string(p.Scheduler), "trailing") || p.Native() != pipeline.Square(16) || p.Factor() != 2 || p.Multiple() != 4 {
		t.Errorf("%+v, native %v, factor %d, multiple %d", p, p.Native(), p.Factor(), p.Multiple())
	}
	for size, says := range map[pipeline.Size]string{{Width: 20, Height: 16}: "", {Width: 18, Height: 16}: "width 18", {Width: 16, Height: 0}: "height 0", {Width: -4, Height: 4}: "width -4"} {
		if err := p.CheckSize(size); (err == nil) != (says == "") || err != nil && !strings.HasPrefix(err.Error(), says) {
			t.Errorf("%v: %v", size, err)
		}
	}
	change(t, dir, "model_index.json", map[string]any{"force_zeros_for_empty_prompt": false})
	if p, err = pipeline.Open(dir); err != nil || p.ZeroEmpty {
		t.Errorf("%+v, %v", p, err)
	}
}

// Components that do not fit each other are named.
func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		file string
		keys map[string]any
		says string
	}{
		{"text_encoder/config.json", map[string]any{"max_position_embeddings": 16}, "text_encoder takes 16 tokens and text_encoder_2 32"},
		{"text_encoder/config.json", map[string]any{"hidden_size": 16}, "make the condition text of the shape [32 24], and the UNet takes [32 12]"},
		{"text_encoder_2/config.json", map[string]any{"architectures": []string{"CLIPTextModel"}}, "text_encoder_2 has no text projection"},
		{"text_encoder_2/config.json", map[string]any{"projection_dim": 9}, "make the condition pooled of the shape [9], and the UNet takes [8]"},
		{"vae/config.json", map[string]any{"latent_channels": 16}, "the VAE has 16 latent channels, the UNet takes 4"},
		{"unet/config.json", map[string]any{"addition_embed_type": nil}, "make the condition pooled, which the UNet does not take"},
		{"scheduler/scheduler_config.json", map[string]any{"prediction_type": "flow_prediction"}, "flow_prediction"},
		{"scheduler/scheduler_config.json", map[string]any{"_class_name": "EDMEulerScheduler"}, "EDM's noise"},
		{"scheduler/scheduler_config.json", map[string]any{"rescale_betas_zero_snr": true}, "zero terminal SNR"},
		{"model_index.json", map[string]any{"force_zeros_for_empty_prompt": 3}, "model_index.json"},
	} {
		dir := tiny(t)
		change(t, dir, c.file, c.keys)
		if _, err := pipeline.Open(dir); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s %v: error %v, want one about %q", c.file, c.keys, err, c.says)
		}
	}
}

// In tiles, a picture is encoded and decoded to something like the whole (a misplaced tile would be 1.4 away): a small
// autoencoder depends on what its group norms see. Package interop compares tiled pictures with diffusers', exactly.
func TestTilesNearWhole(t *testing.T) {
	p, err := pipeline.Open("../../assets/mini")
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		if testing.Short() {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer rt.Close()
	enc, err := encoder.Load(p, engine.New(rt.Backend, dtypes.Float32, nn.Network), 1, encoder.VAEPart)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Free()
	size := pipeline.Size{Width: 112, Height: 80}
	picture := make([]float32, size.Width*size.Height*3)
	for i := range picture { // soft colours
		x, y := float64(i/3%size.Width), float64(i/3/size.Width)
		picture[i] = float32(0.7 * math.Sin(x/13+float64(i%3)) * math.Cos(y/17))
	}
	var latents, back [2][][]float32
	for k, tile := range []int{0, 64} {
		enc.Tile = tile
		if latents[k], err = enc.Latents([][]float32{picture}, size); err != nil {
			t.Fatal(err)
		}
		if back[k], err = enc.Images(latents[0], size); err != nil {
			t.Fatal(err)
		}
	}
	if len(latents[1][0]) != 28*20*4 || len(back[1][0]) != len(picture) {
		t.Fatalf("%d latents, %d values", len(latents[1][0]), len(back[1][0]))
	}
	for what, v := range map[string]struct {
		whole, tiled []float32
		allowed      float64
	}{"latents": {latents[0][0], latents[1][0], 0.4}, "picture": {back[0][0], back[1][0], 0.5}} {
		d := distance(v.whole, v.tiled)
		t.Logf("%s: %.3g of the deviation", what, d)
		if !(d > 0 && d < v.allowed) {
			t.Errorf("%s in tiles differ from the whole's by %.3g of their deviation", what, d)
		}
	}
	enc.Tile = 24
	if _, err := enc.Images(latents[0], size); err == nil || !strings.Contains(err.Error(), "multiple of 16") {
		t.Errorf("a tile of 24: %v", err)
	}
}

// distance is the root mean square difference over a's root mean square.
func distance(a, b []float32) float64 {
	difference, square := 0.0, 0.0
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		difference, square = difference+d*d, square+float64(a[i])*float64(a[i])
	}
	return math.Sqrt(difference / square)
}
