package clip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigOfModelWithBothTowers(t *testing.T) {
	path := configFile(t, `{"model_type": "clip", "projection_dim": 24, "hidden_size": 1,
		"text_config": {"hidden_size": 64, "projection_dim": 512, "num_hidden_layers": 3},
		"text_config_dict": {"num_hidden_layers": 2},
		"vision_config": {"hidden_size": 96, "patch_size": 16}, "vision_config_dict": null}`)
	text, err := LoadTextConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if text.HiddenSize != 64 || text.Layers != 2 || text.ProjectionDim != 24 || !text.Projected || text.MaxPositions != 77 {
		t.Errorf("text tower %+v", text)
	}
	vision, err := LoadVisionConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if vision.HiddenSize != 96 || vision.PatchSize != 16 || vision.ProjectionDim != 24 || vision.ImageSize != 224 {
		t.Errorf("vision tower %+v", vision)
	}
}

func TestProjectedFollowsArchitecture(t *testing.T) {
	for architecture, want := range map[string]bool{"CLIPTextModel": false, "CLIPTextModelWithProjection": true} {
		c, err := LoadTextConfig(configFile(t, `{"architectures": ["`+architecture+`"], "model_type": "clip_text_model"}`))
		if err != nil {
			t.Fatal(err)
		}
		if c.Projected != want {
			t.Errorf("%s: projected %t", architecture, c.Projected)
		}
	}
}

func TestRefusedConfigs(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{`[]`, "cannot unmarshal"},
		{`{"hidden_act": "gelu_new"}`, `hidden_act "gelu_new"`},
		{`{"num_attention_heads": 7}`, "7 attention heads"},
		{`{"num_attention_heads": 0}`, "must all be positive"},
		{`{"layer_norm_eps": 0}`, "layer_norm_eps"},
	} {
		path := configFile(t, c.text)
		_, text := LoadTextConfig(path)
		_, vision := LoadVisionConfig(path)
		for _, err := range []error{text, vision} {
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: error %v, want one about %q", c.text, err, c.says)
			}
		}
	}
	if _, err := LoadVisionConfig(configFile(t, `{"patch_size": 225}`)); err == nil {
		t.Error("a patch larger than the image was accepted")
	}
	if _, err := LoadTextConfig(configFile(t, `{"vocab_size": -1}`)); err == nil {
		t.Error("a negative vocabulary was accepted")
	}
}

func TestEOSPosition(t *testing.T) {
	for _, c := range []struct {
		eos  int
		ids  []int32
		want int32
	}{
		{49407, []int32{49406, 320, 49407, 49407, 49407}, 2},
		{49407, []int32{49406, 320, 49407, 0, 0}, 2},
		{2, []int32{49406, 320, 49407, 49407}, 2}, // the largest id, the first time
		{2, []int32{49406, 2, 49407, 2}, 2},
		{5, []int32{9, 8, 7}, 0},
		{5, []int32{5, 5}, 0},
	} {
		config := TextConfig{EOSTokenID: c.eos}
		if got := config.EOSPosition(c.ids); got != c.want {
			t.Errorf("end of text %d in %v at %d, want %d", c.eos, c.ids, got, c.want)
		}
	}
}
