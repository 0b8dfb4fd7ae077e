package golden

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/model/clip"
	"fewstep/model/nn"
	"fewstep/model/unet"
	"fewstep/model/vae"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

func floats(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }
func ints(dims ...int) shapes.Shape   { return shapes.Make(dtypes.Int32, dims...) }

// sdxlInputs are the smallest that SDXL's UNet takes: parameters do not depend on them.
var sdxlInputs = []shapes.Shape{floats(1, 8, 8, 4), floats(1), floats(1, 2, 2048), floats(1, 1280), floats(1, 6)}

// TestFullSizeParameters compares every parameter name and shape of SDXL's networks, of Stable Diffusion 1's and 2's and of
// CLIP ViT-L/14 with the libraries', so that released checkpoints fit.
func TestFullSizeParameters(t *testing.T) {
	rt := backend(t)
	config := func(model string) string { return configOf(filepath.FromSlash(model)) }
	unetOf := func(model string) func() (nn.Block, error) {
		return func() (nn.Block, error) {
			c, err := unet.LoadConfig(config(model))
			if err != nil {
				return nn.Block{}, err
			}
			return c.Network("", nil), nil
		}
	}
	textOf := func(model string) func() (nn.Block, error) {
		return func() (nn.Block, error) {
			c, err := clip.LoadTextConfig(config(model))
			if err != nil {
				return nn.Block{}, err
			}
			return c.Tokens(""), nil
		}
	}
	for _, model := range []struct {
		name   string
		block  func() (nn.Block, error)
		inputs []shapes.Shape
	}{
		{"sdxl/unet", unetOf("sdxl/unet"), sdxlInputs},
		{"sd1/unet", unetOf("sd1/unet"), []shapes.Shape{floats(1, 8, 8, 4), floats(1), floats(1, 2, 768)}},
		{"sd2/unet", unetOf("sd2/unet"), []shapes.Shape{floats(1, 8, 8, 4), floats(1), floats(1, 2, 1024)}},
		{"sd1/text_encoder", textOf("sd1/text_encoder"), []shapes.Shape{ints(1, 77)}},
		{"sd2/text_encoder", textOf("sd2/text_encoder"), []shapes.Shape{ints(1, 77)}},
		{"sdxl/vae", func() (nn.Block, error) {
			c, err := vae.LoadConfig(config("sdxl/vae"))
			if err != nil {
				return nn.Block{}, err
			}
			return c.Autoencoder(""), nil
		}, []shapes.Shape{floats(1, 16, 16, 3), floats(1, 2, 2, 4)}},
		{"sdxl/text_encoder", func() (nn.Block, error) { return textBlock(config("sdxl/text_encoder")) }, []shapes.Shape{ints(1, 77), ints(1)}},
		{"sdxl/text_encoder_2", func() (nn.Block, error) { return textBlock(config("sdxl/text_encoder_2")) }, []shapes.Shape{ints(1, 77), ints(1)}},
		{"sdxl/clip_vit_l14", func() (nn.Block, error) { return clipBlock("", config("sdxl/clip_vit_l14")) }, []shapes.Shape{floats(1, 224, 224, 3), ints(1, 77), ints(1)}},
	} {
		t.Run(model.name, func(t *testing.T) {
			block, err := model.block()
			if err != nil {
				t.Fatal(err)
			}
			specs, err := nn.Trace(rt.Backend, block, model.inputs...)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(model.name), "digest.json"))
			if err != nil {
				t.Fatal(err)
			}
			var want struct {
				Parameters int
				SHA256     string
			}
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			if n := count(specs, func(string) bool { return true }); n != want.Parameters {
				t.Errorf("%d parameters, want %d", n, want.Parameters)
			}
			if got := digest(specs); got != want.SHA256 {
				t.Errorf("names and shapes differ from the library's: hash %s, want %s", got, want.SHA256)
			}
		})
	}
}

// TestSDXLSizes checks the published sizes: the UNet's, its adapters' at rank 64, and the discriminator's backbone's.
func TestSDXLSizes(t *testing.T) {
	rt := backend(t)
	c, err := unet.LoadConfig(configOf("sdxl/unet"))
	if err != nil {
		t.Fatal(err)
	}
	specs, err := nn.Trace(rt.Backend, c.Network("", &nn.LoRA{Rank: 64, Scale: 0.125}), sdxlInputs...)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(specs, func(name string) bool { return !engine.IsLoRA(name) }); n != 2_567_463_684 {
		t.Errorf("the UNet has %d parameters, want 2,567,463,684", n)
	}
	if n := count(specs, engine.IsLoRA); n != 196_751_360 {
		t.Errorf("the adapters have %d parameters, want 196,751,360", n)
	}
	modules := 0
	for _, s := range specs {
		if strings.HasSuffix(s.Name, ".lora_down") {
			modules++
		}
	}
	if modules != 788 {
		t.Errorf("%d adapted modules, want 788", modules)
	}
	specs, err = nn.Trace(rt.Backend, c.Encoder(""), sdxlInputs...)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(specs, func(string) bool { return true }); n != 1_243_367_040 {
		t.Errorf("the encoder has %d parameters, want 1,243,367,040", n)
	}
}

func count(specs []nn.Spec, which func(name string) bool) (n int) {
	for _, s := range specs {
		if which(s.Name) {
			n += s.Size()
		}
	}
	return n
}

// digest is the hash of the sorted lines "name [d, d]" (generate.py).
func digest(specs []nn.Spec) string {
	lines := make([]string, len(specs))
	for i, s := range specs {
		lines[i] = fmt.Sprintf("%s [%s]\n", s.Name, strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Dims), " ", ", "), "[]"))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:])
}

func textBlock(config string) (nn.Block, error) {
	c, err := clip.LoadTextConfig(config)
	if err != nil {
		return nn.Block{}, err
	}
	return c.Text(""), nil
}

// clipBlock is both towers and their comparison as one network, so that all of a CLIPModel's parameters occur:
// image, ids and end-of-text positions to logits, image embedding and image hidden states.
func clipBlock(name, config string) (nn.Block, error) {
	text, err := clip.LoadTextConfig(config)
	if err != nil {
		return nn.Block{}, err
	}
	vision, err := clip.LoadVisionConfig(config)
	if err != nil {
		return nn.Block{}, err
	}
	return bothTowers(name, text, vision), nil
}

func bothTowers(name string, text *clip.TextConfig, vision *clip.VisionConfig) nn.Block {
	return nn.Block{Kind: "clip", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			image := r.Run(vision.Vision(""), in[0])
			words := r.Run(text.Text(""), in[1], in[2])
			return append(r.Run(clip.Logits(""), image[0], words[clip.TextProjected]), image...)
		}}
}
