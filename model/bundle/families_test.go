package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/model/ldm"
	"fewstep/model/unet"
	"fewstep/model/weights"
)

// withUNet makes mini's directory with another UNet's config, and weights of its shapes.
func withUNet(t *testing.T, changes object) (string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	must(t, os.CopyFS(dir, os.DirFS(mini)))
	path := filepath.Join(dir, "unet", "config.json")
	raw, err := os.ReadFile(path)
	must(t, err)
	config := object{}
	must(t, json.Unmarshal(raw, &config))
	for key, value := range changes {
		config[key] = value
	}
	raw = indented(config)
	must(t, os.WriteFile(path, raw, 0o666))
	c, err := unet.ParseConfig(raw, path)
	if err != nil {
		return dir, err
	}
	var tensors []weights.Tensor
	seed := 0
	for name, shape := range c.Tensors() {
		n := 1
		for _, d := range shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			seed = (seed*1103515245 + 12345) & 0x7fffffff
			v[i] = float32(seed%2048)/1024 - 1
		}
		tensors = append(tensors, weights.FromFloat32(name, shape, v, weights.F16))
	}
	must(t, weights.Write(filepath.Join(dir, "unet", "diffusion_pytorch_model.safetensors"), tensors, map[string]string{"format": "pt"}))
	return dir, nil
}

// The UNets that were made of SDXL's go through a single file and back as they are, and the file's shapes tell what they
// are; an inpainting model can be converted too. Others are refused both ways.
func TestFamilies(t *testing.T) {
	for what, changes := range map[string]object{
		"SSD-1B":     {"transformer_layers_per_block": []any{1, []int{1, 1}, []int{2, 2}}, "reverse_transformer_layers_per_block": []any{[]int{2, 2, 1}, []int{1, 1, 1}, 1}},
		"Vega":       {"transformer_layers_per_block": []int{1, 1, 2}, "mid_block_type": "UNetMidBlock2D"},
		"KOALA":      {"layers_per_block": 1, "mid_block_type": nil, "transformer_layers_per_block": []int{1, 1, 2}},
		"inpainting": {"in_channels": 9},
	} {
		dir, err := withUNet(t, changes)
		must(t, err)
		out := t.TempDir()
		single := filepath.Join(out, "x.safetensors")
		must(t, open(t, dir).WriteSingleFile(single, WriteOptions{}))
		must(t, open(t, single).WriteDirectory(filepath.Join(out, "back"), WriteOptions{}))
		const file = "unet/diffusion_pytorch_model.safetensors"
		same(t, filepath.Join(dir, file), filepath.Join(out, "back", file))

		// Without the metadata, what decides the structure is read from the shapes; mini's heads are not SDXL's.
		f, err := weights.Open(single)
		must(t, err)
		c, err := ldm.New(single, f, nil)
		must(t, err)
		src, err := c.Component(ldm.UNet)
		must(t, err)
		s := &shapes{src: src}
		derived := unetConfig(s, 0, untold{latentSide: 128})
		want := map[string]any{}
		raw, err := os.ReadFile(filepath.Join(dir, "unet", "config.json"))
		must(t, err)
		must(t, json.Unmarshal(raw, &want))
		for _, key := range []string{"mid_block_type", "in_channels", "layers_per_block", "use_linear_projection"} {
			a, _ := json.Marshal(derived[key])
			b, _ := json.Marshal(want[key])
			if string(a) != string(b) {
				t.Errorf("%s: the shapes tell %s %s, the config says %s", what, key, a, b)
			}
		}
		must(t, c.Close())
	}
	dir, err := withUNet(t, object{"time_cond_proj_dim": 64})
	if err == nil || !strings.Contains(err.Error(), "time_cond_proj_dim") {
		t.Fatal(err)
	}
	if err := open(t, dir).WriteSingleFile(filepath.Join(t.TempDir(), "x.safetensors"), WriteOptions{}); err == nil || !strings.Contains(err.Error(), "time_cond_proj_dim") {
		t.Errorf("a UNet that is conditioned on more was converted: %v", err)
	}
}
