package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/train/tinypipeline"
)

// Whatever a run exports can be drawn from, knows its own steps, and shows the same student: the UNet file, a directory,
// a single file, and the files of a release.
func TestSampleEveryExport(t *testing.T) {
	dir := t.TempDir()
	recipe, err := tinypipeline.Write(dir, filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	run, model := filepath.Join(dir, "run"), filepath.Join(dir, "tinymodel")
	command := func(args ...string) string {
		t.Helper()
		_, errs, code := runCommand(t, args...)
		if code != 0 {
			t.Fatalf("%v: code %d, %s", args, code, errs)
		}
		return errs
	}
	command("run", recipe, "--backend", "go", "--dir", run, "--until", "8", "--quiet")
	directory, single, release := filepath.Join(dir, "8step"), filepath.Join(dir, "8step.safetensors"), filepath.Join(dir, "release")
	command("export", run, "--steps", "8", "--out", directory)
	command("export", run, "--steps", "8", "--out", single)
	command("export", run, "--release", "tiny", "--out", release)
	draw := func(args ...string) []byte {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out.png")
		said := command(append([]string{"sample", "--backend", "go", "--prompt", "cat face", "--out", out}, args...)...)
		if !strings.Contains(said, "steps=8") {
			t.Errorf("%v: the steps were not read from the file: %s", args, said)
		}
		raw, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	full := draw("--model", model, "--unet", filepath.Join(run, "exports", "8step_unet.safetensors"))
	for _, args := range [][]string{
		{"--model", directory}, {"--model", single}, {"--model", filepath.Join(release, "tiny_8step.safetensors")},
		{"--model", model, "--unet", filepath.Join(release, "tiny_8step_unet.safetensors")},
		{"--model", model, "--unet", single}, {"--model", model, "--unet", filepath.Join(directory, "unet")},
	} {
		if !bytes.Equal(draw(args...), full) {
			t.Errorf("%v draws another picture than the UNet file", args)
		}
	}
	lora := draw("--model", model, "--lora", filepath.Join(run, "exports", "8step_lora.safetensors"))
	if !bytes.Equal(lora, draw("--model", model, "--lora", filepath.Join(release, "tiny_8step_lora.safetensors"))) {
		t.Error("the release's LoRA draws another picture than the exported one")
	}
	merged := filepath.Join(dir, "merged")
	command("lora", "merge", "--model", model, "--lora", filepath.Join(run, "exports", "8step_lora.safetensors"), "--dtype", "f32", "--out", merged)
	if !bytes.Equal(lora, draw("--model", merged)) {
		t.Error("merged, the LoRA draws another picture")
	}
}
