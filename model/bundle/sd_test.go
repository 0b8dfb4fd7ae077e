package bundle_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/bundle"
	"fewstep/model/family"
	"fewstep/model/ldm"
	"fewstep/model/prediction"
	"fewstep/model/weights"
	"fewstep/train/tinypipeline"
)

func open(t *testing.T, path string) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// Stable Diffusion 1 and 2 go into a single file, under the names that other programs load, and back without a change.
func TestStableDiffusionAsASingleFile(t *testing.T) {
	for version, begins := range []string{1: "cond_stage_model.transformer.text_model.", 2: "cond_stage_model.model."} {
		if version == 0 {
			continue
		}
		dir := filepath.Join(t.TempDir(), "model")
		if err := tinypipeline.SD(dir, "../../model/clip/testdata", version); err != nil {
			t.Fatal(err)
		}
		b := open(t, dir)
		single, back := filepath.Join(t.TempDir(), "single.safetensors"), filepath.Join(t.TempDir(), "back")
		if err := b.WriteSingleFile(single, bundle.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		f, err := weights.Open(single)
		if err != nil {
			t.Fatal(err)
		}
		text := slices.DeleteFunc(f.Names(), func(n string) bool { return !strings.HasPrefix(n, begins) })
		other := slices.DeleteFunc(f.Names(), func(n string) bool {
			return strings.HasPrefix(n, begins) || strings.HasPrefix(n, "model.diffusion_model.") || strings.HasPrefix(n, "first_stage_model.")
		})
		want := []string(nil)
		if version == 2 {
			want = []string{prediction.MarkerV}
		}
		if len(text) < 20 || !slices.Equal(other, want) {
			t.Errorf("version %d: %d tensors of the text encoder, and %v", version, len(text), other)
		}
		f.Close()
		s := open(t, single)
		if kind, _, err := s.Prediction(); err != nil || s.Kind() != family.SD || (kind.Target == prediction.V) != (version == 2) {
			t.Errorf("version %d: %+v, %v, %v", version, s.Kind(), kind, err)
		}
		if err := s.WriteDirectory(back, bundle.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		again := open(t, back)
		for _, component := range []string{ldm.UNet, ldm.VAE, ldm.Text} {
			a, err := b.Weights(component)
			if err != nil {
				t.Fatal(err)
			}
			c, err := again.Weights(component)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(a.Names(), c.Names()) || len(a.Names()) == 0 {
				t.Fatalf("version %d, %s: %d tensors became %d", version, component, len(a.Names()), len(c.Names()))
			}
			for _, name := range a.Names() {
				x, err := a.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				y, err := c.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				p, err1 := x.Float32()
				q, err2 := y.Float32()
				if err1 != nil || err2 != nil || !slices.Equal(x.Shape, y.Shape) || !slices.Equal(p, q) {
					t.Errorf("version %d: %s/%s changed", version, component, name)
				}
			}
		}
		if _, err := os.Stat(filepath.Join(back, "text_encoder_2")); err == nil {
			t.Error("there is a second text encoder")
		}
		for _, name := range []string{"unet/config.json", "text_encoder/config.json", "model_index.json", "tokenizer/vocab.json"} {
			x, err1 := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
			y, err2 := os.ReadFile(filepath.Join(back, filepath.FromSlash(name)))
			if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
				t.Errorf("version %d: %s: %v, %v, or it changed", version, name, err1, err2)
			}
		}
	}
}

// Files of Stability AI's code hold the whole OpenCLIP, of which Stable Diffusion 2 does not use the last layer and the
// projection: they are left out.
func TestWholeOpenCLIP(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	if err := tinypipeline.SD(dir, "../../model/clip/testdata", 2); err != nil {
		t.Fatal(err)
	}
	single, whole := filepath.Join(t.TempDir(), "single.safetensors"), filepath.Join(t.TempDir(), "whole.safetensors")
	if err := open(t, dir).WriteSingleFile(single, bundle.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	f, err := weights.Open(single)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const text = "cond_stage_model.model."
	var all []weights.Tensor
	for _, name := range f.Names() {
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
		if rest, ok := strings.CutPrefix(name, text+"transformer.resblocks.1."); ok {
			x.Name = text + "transformer.resblocks.2." + rest
			all = append(all, x)
		}
	}
	all = append(all, weights.FromFloat32(text+"text_projection", []int{8, 4}, make([]float32, 32), weights.F32),
		weights.FromFloat32(text+"logit_scale", []int{}, []float32{1}, weights.F32))
	if err := weights.Write(whole, all, f.Metadata()); err != nil {
		t.Fatal(err)
	}
	b := open(t, whole)
	src, err := b.Weights(ldm.Text)
	if err != nil {
		t.Fatal(err)
	}
	own, err := open(t, dir).Weights(ldm.Text)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(src.Names(), own.Names()) || len(b.LeftOut()) != len(all)-len(f.Names()) {
		t.Errorf("%d tensors, want %d; left out %v", len(src.Names()), len(own.Names()), b.LeftOut())
	}
}

// A safety checker is no part of what is written, and so not listed: diffusers would look for its folder.
func TestSafetyCheckerIsNotListed(t *testing.T) {
	dir, out := filepath.Join(t.TempDir(), "model"), filepath.Join(t.TempDir(), "out")
	if err := tinypipeline.SD(dir, "../../model/clip/testdata", 1); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model_index.json")
	index, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var listed map[string]any
	if err := json.Unmarshal(index, &listed); err != nil {
		t.Fatal(err)
	}
	listed["safety_checker"] = []string{"stable_diffusion", "StableDiffusionSafetyChecker"}
	listed["feature_extractor"] = []string{"transformers", "CLIPImageProcessor"}
	listed["requires_safety_checker"] = true
	if index, err = json.Marshal(listed); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, index, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).WriteDirectory(out, bundle.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(out, "model_index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var written map[string]any
	if err := json.Unmarshal(raw, &written); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"safety_checker", "feature_extractor"} {
		if pair, ok := written[key].([]any); !ok || pair[0] != nil || pair[1] != nil {
			t.Errorf("%s is %v", key, written[key])
		}
	}
	if written["requires_safety_checker"] != false || written["_class_name"] != "StableDiffusionPipeline" {
		t.Errorf("%v", written)
	}
	for _, part := range []string{"unet", "vae", "text_encoder", "tokenizer", "scheduler"} {
		if pair, ok := written[part].([]any); !ok || pair[0] == nil {
			t.Errorf("%s is %v", part, written[part])
		}
	}
}
