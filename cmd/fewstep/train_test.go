package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fewstep/train/tinypipeline"
)

// A base is trained from nothing, part after part, into a folder that holds config files only; what comes out draws.
func TestTrainBase(t *testing.T) {
	home := t.TempDir()
	if _, err := tinypipeline.Write(home, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	model := filepath.Join(home, "tinymodel")
	old := files(t, model, func(path string) bool { return filepath.Ext(path) != ".safetensors" })
	for path := range old {
		if err := os.Remove(filepath.Join(model, path)); err != nil {
			t.Fatal(err)
		}
	}
	// The second text encoder is the CLIP pair's, so both project to the same width.
	config := filepath.Join(model, "clip", "config.json")
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	wide := regexp.MustCompile(`"projection_dim": \d+`)
	if err := os.WriteFile(config, wide.ReplaceAll(raw, wide.Find(must(os.ReadFile(filepath.Join(model, "text_encoder_2", "config.json"))))), 0o644); err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(home, "base.yaml")
	part := "{samples: 16, batch: 8, lr: 1e-3, warmup: 8, weight_decay: 0.01, clip_norm: 1, ema: 0}"
	text := "seed: 1\nmodel: " + model + "\ndata: " + filepath.Join(home, "images.parquet") + "\nresolution: 16\ncompute: f32\n" +
		"captions: {fine: 0.5, kind: 0.25, coarse: 0.25}\nvae: " + part + "\nclip: " + part + "\nunet: " +
		strings.TrimSuffix(part, "}") + ", dropout: 0.1, min_snr: 5, noise_offset: 0.1}\n"
	if err := os.WriteFile(recipe, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := runCommand(t, "train", recipe, "--backend", "go", "--quiet"); code != exitOK {
		t.Fatalf("code %d, %s", code, errs)
	}
	made := files(t, model, nil)
	for path, digest := range old {
		if made[path] == "" || made[path] == digest {
			t.Errorf("%s was not trained", path)
		}
	}
	picture := filepath.Join(home, "picture.png")
	if _, errs, code := runCommand(t, "sample", "--backend", "go", "--model", model, "--prompt", "red disc", "--steps", "1", "--out", picture, "--quiet"); code != exitOK {
		t.Fatalf("the trained model does not draw: code %d, %s", code, errs)
	}
	if info, err := os.Stat(picture); err != nil || info.Size() == 0 {
		t.Errorf("no picture: %v", err)
	}
	// A part alone, and a recipe with a key that is not one.
	if _, errs, code := runCommand(t, "train", recipe, "--backend", "go", "--quiet", "--only", "audio"); code != exitUsage || !strings.Contains(errs, "audio") {
		t.Errorf("an unknown part: code %d, %s", code, errs)
	}
	if err := os.WriteFile(recipe, []byte(strings.Replace(text, "compute:", "computer:", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := runCommand(t, "train", recipe, "--backend", "go", "--quiet"); code != exitUsage || !strings.Contains(errs, "computer") {
		t.Errorf("an unknown key: code %d, %s", code, errs)
	}
}
