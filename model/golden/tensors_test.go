package golden

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"fewstep/model/clip"
	"fewstep/model/unet"
	"fewstep/model/vae"
)

// TestStateDicts compares the names and shapes that configs give with diffusers' and transformers' state dicts.
func TestStateDicts(t *testing.T) {
	for _, name := range []string{"unet", "unet_odd", "unet_lists", "unet_single", "unet_sd1", "unet_sd2", "vae", "vae_odd", "clip_text", "clip_text_projection", "clip_sd1", "clip_sd2"} {
		dir := filepath.Join("testdata", name)
		raw, err := os.ReadFile(filepath.Join(dir, "tensors.json"))
		if err != nil {
			t.Fatal(err)
		}
		var all map[string][]int
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		var got map[string][]int
		config := filepath.Join(dir, "config.json")
		switch name[:3] {
		case "une":
			var c *unet.Config
			if c, err = unet.LoadConfig(config); err == nil {
				got = c.Tensors()
			}
		case "vae":
			var c *vae.Config
			if c, err = vae.LoadConfig(config); err == nil {
				got = c.Tensors()
			}
		default:
			var c *clip.TextConfig
			if c, err = clip.LoadTextConfig(config); err == nil {
				got = c.Tensors()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][]int{}
		for k, v := range all {
			if !strings.Contains(k, ".lora_") {
				want[k] = v
			}
		}
		if !reflect.DeepEqual(got, want) {
			for k, v := range want {
				if !reflect.DeepEqual(got[k], v) {
					t.Errorf("%s: %s is %v, want %v", name, k, got[k], v)
				}
			}
			t.Errorf("%s: %d tensors, want %d", name, len(got), len(want))
		}
	}
}
