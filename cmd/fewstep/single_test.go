package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/model/weights"
	"fewstep/train/tinypipeline"
)

// A single file is as good as the directory it came from: the same pictures, and a ladder's first stage makes the same
// weights.
func TestSingleFileAsDirectory(t *testing.T) {
	dir := t.TempDir()
	recipe, err := tinypipeline.Write(dir, filepath.Join("..", "..", "model", "clip", "testdata"))
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

// A single file of odd widths, from a program that put no configurations into it, needs a folder that has them; then it
// draws what the directory draws, and becomes the same directory.
func TestForeignSingleFile(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := tinypipeline.Model(model, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	whole, foreign := filepath.Join(dir, "whole.safetensors"), filepath.Join(dir, "foreign.safetensors")
	if _, errs, code := runCommand(t, "convert", model, whole); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	rewrite(t, whole, foreign, nil)
	draw := func(model, out string, more ...string) (string, int) {
		_, errs, code := runCommand(t, append([]string{"sample", "--backend", "go", "--model", model, "--prompt", "cat face", "--steps", "1", "--out", out}, more...)...)
		return errs, code
	}
	if errs, code := draw(foreign, filepath.Join(dir, "x.png")); code == 0 || !strings.Contains(errs, foreign) || !strings.Contains(errs, "--config") || strings.Count(errs, "\n") > 2 {
		t.Errorf("without configs: code %d, %q", code, errs)
	}
	var pictures [2][]byte
	for i, args := range [][]string{{model}, {foreign, "--config", model}} {
		out := filepath.Join(dir, "out.png")
		errs, code := draw(args[0], out, args[1:]...)
		if code != 0 {
			t.Fatalf("code %d, %q", code, errs)
		}
		var err error
		if pictures[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(pictures[0], pictures[1]) {
		t.Error("the pictures differ")
	}
	again, direct := filepath.Join(dir, "again"), filepath.Join(dir, "direct")
	for _, args := range [][]string{{foreign, again, "--config", model}, {whole, direct}} {
		if _, errs, code := runCommand(t, append([]string{"convert"}, args...)...); code != 0 {
			t.Fatalf("code %d, %q", code, errs)
		}
	}
	sameFiles(t, files(t, direct, nil), files(t, again, nil))
}

// rewrite copies a weights file without its metadata, each tensor as change, if it is not nil, makes it.
func rewrite(t *testing.T, from, to string, change func(weights.Tensor) weights.Tensor) {
	t.Helper()
	f, err := weights.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tensors []weights.Tensor
	for _, name := range f.Names() {
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			x = change(x)
		}
		tensors = append(tensors, x)
	}
	if err := weights.Write(to, tensors, nil); err != nil {
		t.Fatal(err)
	}
}
