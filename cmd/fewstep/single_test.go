package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"fewstep/train/tinypipeline"
)

// A single file is as good as the directory it came from: the same pictures, and a ladder's first stage makes the same
// weights.
func TestSingleFileAsDirectory(t *testing.T) {
	dir := t.TempDir()
	recipe, err := tinypipeline.Write(dir, filepath.Join("..", "..", "assets", "mini"))
	if err != nil {
		t.Fatal(err)
	}
	model, single := filepath.Join(dir, "tinymodel"), filepath.Join(t.TempDir(), "tiny.safetensors")
	if _, errs, code := runCommand(t, "convert", model, single); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	var pictures, made [2][]byte
	for i, model := range []string{model, single} {
		out := filepath.Join(t.TempDir(), "out.png")
		if _, errs, code := runCommand(t, "sample", "--backend", "go", "--model", model, "--prompt", "cat face", "--steps", "2", "--guidance", "2", "--out", out); code != 0 {
			t.Fatalf("sample: code %d, %q", code, errs)
		}
		if pictures[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
		run := filepath.Join(t.TempDir(), "run")
		if _, errs, code := runCommand(t, "run", recipe, "--backend", "go", "--dir", run, "--until", "16", "--set", "model="+model); code != 0 {
			t.Fatalf("run: code %d, %q", code, errs)
		}
		raw, err := os.ReadFile(filepath.Join(run, "exports", "16step_unet.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		made[i] = raw[8+binary.LittleEndian.Uint64(raw):] // the metadata tells the two models apart
	}
	if !bytes.Equal(pictures[0], pictures[1]) {
		t.Error("the pictures differ")
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("the trained weights differ")
	}
}
