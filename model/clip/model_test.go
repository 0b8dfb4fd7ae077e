package clip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/model/nn"
	"fewstep/model/weights"
)

// modelFolder is a folder with the given files and the first fixture's tokenizer.
func modelFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"vocab.json", "merges.txt", "tokenizer_config.json"} {
		content, err := os.ReadFile(filepath.Join(fixtures, "tokenizer", name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, name, string(content))
	}
	for name, content := range files {
		writeFile(t, dir, name, content)
	}
	return dir
}

const smallHF = `{"model_type": "clip", "projection_dim": 8, "text_config": {"vocab_size": 2048, "hidden_size": 16, "num_attention_heads": 2},
	"vision_config": {"hidden_size": 16, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}}`

const smallOpen = `{"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
	"text_cfg": {"context_length": 20, "vocab_size": 2048, "width": 16, "heads": 2, "layers": 1}}}`

func TestOpenModel(t *testing.T) {
	m, err := OpenModel(modelFolder(t, map[string]string{"config.json": smallHF, "open_clip_config.json": "{}",
		"preprocessor_config.json": `{"size": {"shortest_edge": 40}, "crop_size": 32, "image_mean": [0, 0, 0.5], "resample": 3, "do_resize": true}`}), "")
	if err != nil {
		t.Fatal(err)
	}
	want := Preprocess{Resize: 40, Crop: 32, Floor: true, Mean: [3]float64{0, 0, 0.5}, Std: openAIStd}
	if m.Preprocess != want || m.Text.EOSTokenID == legacyEOS || m.Tokenizer.MaxLength != 32 {
		t.Errorf("preprocess %+v, text %+v, %d tokens", m.Preprocess, m.Text, m.Tokenizer.MaxLength)
	}
	if w, h := m.Preprocess.Size(64, 50); w != 51 || h != 40 {
		t.Errorf("64×50 is resized to %d×%d, want 51×40", w, h)
	}
	if m, err = OpenModel(modelFolder(t, map[string]string{"open_clip_config.json": smallOpen}), ""); err != nil {
		t.Fatal(err)
	}
	if m.Text.Activation != "gelu" || m.Text.EOSTokenID != legacyEOS || m.Vision.Heads != 2 || m.Tokenizer.MaxLength != 20 {
		t.Errorf("text %+v, vision %+v, %d tokens", m.Text, m.Vision, m.Tokenizer.MaxLength)
	}
}

func TestRefusedModels(t *testing.T) {
	for _, c := range []struct{ file, content, says string }{
		{"none", "", "neither a CLIPModel (config.json) nor an open_clip model"},
		{"config.json", `{"model_type": "clip", "vision_config": {"hidden_act": "relu"}}`, `hidden_act "relu"`},
		{"config.json", `{"architectures": ["CLIPTextModel"]}`, "not the two towers of one CLIP"},
		{"config.json", strings.Replace(smallHF, "2048", "100", 1), "knows 100 tokens, the tokenizer in"},
		{"open_clip_config.json", strings.Replace(smallOpen, `"layers"`, `"timm_model_name"`, 1), `unknown field "timm_model_name"`},
		{"open_clip_config.json", strings.Replace(smallOpen, `"head_width": 8`, `"head_width": 7`, 1), "does not divide into heads of 7"},
		{"open_clip_config.json", strings.Replace(smallOpen, `"model_cfg"`, `"preprocess_cfg": {"resize_mode": "longest"}, "model_cfg"`, 1), `resize_mode "longest"`},
		{"open_clip_config.json", strings.Replace(smallOpen, `"model_cfg"`, `"preprocess_cfg": {"std": [1, 0, 1]}, "model_cfg"`, 1), "must be positive"},
	} {
		if _, err := OpenModel(modelFolder(t, map[string]string{c.file: c.content}), ""); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %s: error %v, want %q in it", c.file, c.content, err, c.says)
		}
	}
	for _, c := range []struct{ content, says string }{
		{`{"crop_size": {"height": 28, "width": 28}}`, "crop_size is 28, the image encoder's image_size is 32"},
		{`{"do_center_crop": false}`, "do_center_crop is false"},
		{`{"resample": 2}`, "resample is 2"},
		{`{"rescale_factor": 1}`, "rescale_factor is 1"},
		{`{"size": {"longest_edge": 3}}`, "neither a number"},
		{`{"size": 16}`, "resized to 16 and cropped to 32"},
	} {
		dir := modelFolder(t, map[string]string{"config.json": smallHF, "preprocessor_config.json": c.content})
		if _, err := OpenModel(dir, ""); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "preprocessor_config.json") {
			t.Errorf("%s: error %v, want %q in it", c.content, err, c.says)
		}
	}
}

func TestModelNamesTheTensor(t *testing.T) {
	dir := modelFolder(t, map[string]string{"open_clip_config.json": smallOpen})
	m, err := OpenModel(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	file := []weights.Tensor{
		weights.FromFloat32("transformer.resblocks.0.attn.in_proj_bias", []int{6}, []float32{1, 2, 3, 4, 5, 6}, weights.F32),
		weights.FromFloat32("visual.proj", []int{2, 3}, []float32{1, 2, 3, 4, 5, 6}, weights.F32),
	}
	if err := weights.Write(filepath.Join(dir, "open_clip_pytorch_model.safetensors"), file, nil); err != nil {
		t.Fatal(err)
	}
	keys := nn.Spec{Name: "text_model.encoder.layers.0.self_attn.k_proj.bias", Dims: []int{2}}
	projection := nn.Spec{Name: "visual_projection.weight", Dims: []int{3, 2}}
	got, err := m.Read([]nn.Spec{keys, projection})
	if err != nil {
		t.Fatal(err)
	}
	if k, p := got[keys.Name], got[projection.Name]; k[0] != 3 || k[1] != 4 || len(k) != 2 || p[0] != 1 || p[1] != 4 || p[2] != 2 {
		t.Errorf("keys %v, projection %v", k, p)
	}
	keys.Dims = []int{3}
	if _, err := m.Read([]nn.Spec{keys}); err == nil || !strings.Contains(err.Error(), `"transformer.resblocks.0.attn.in_proj_bias" has the shape [6], the config wants [9]`) {
		t.Errorf("error %v", err)
	}
	if _, err := m.Read([]nn.Spec{{Name: "text_model.final_layer_norm.bias", Dims: []int{2}}}); err == nil || !strings.Contains(err.Error(), `"ln_final.bias"`) {
		t.Errorf("error %v", err)
	}
}
