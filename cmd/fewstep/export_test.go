package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/model/weights"
	"fewstep/train/export"
	"fewstep/train/rundir"
)

// finishedRun is a run directory whose 32-step stage is done: the result is the mini base model itself.
func finishedRun(t *testing.T) string {
	t.Helper()
	c, err := configs.Load("../../configs/mini/demo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	model, err := filepath.Abs("../../assets/mini")
	if err != nil {
		t.Fatal(err)
	}
	c.Model = model
	first := &c.Stages[0]
	first.Phases = slices.DeleteFunc(first.Phases, func(p configs.Phase) bool { return p.Name != "mse-full" })
	dir := filepath.Join(t.TempDir(), "run")
	d, err := rundir.Open(dir, c.Resolved(), rundir.Lineage{BaseWeights: "ba5e"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	raw, err := os.ReadFile(filepath.Join(model, "unet", "diffusion_pytorch_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SaveResult(rundir.Point{Stage: "32", Phase: "mse-full"}, nil, rundir.Bytes(export.ResultFile, raw)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func runCommand(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs}
	err := a.execute(context.Background(), args)
	if err != nil {
		printError(&errs, err)
	}
	return out.String(), errs.String(), exitCode(err)
}

func TestExport(t *testing.T) {
	run := finishedRun(t)
	out, errs, code := runCommand(t, "export", run)
	if code != 0 || !strings.Contains(out, filepath.Join("exports", "32step_unet.safetensors")) || strings.Count(out, "\n") != 3 {
		t.Fatalf("code %d, %q, %q", code, out, errs)
	}
	if out, errs, code := runCommand(t, "check", run); code != 0 {
		t.Errorf("the run is not sound afterwards: %s%s", out, errs)
	}
	out, _, _ = runCommand(t, "inspect", "--values", filepath.Join(run, "exports", "32step_unet.safetensors"))
	for _, want := range []string{"kind        UNet of SDXL", "whole       yes", "F16 ×620", "hash        sound", "fewstep.sampler.steps = 32", "fewstep.base_sha256 = ba5e", "fewstep.stage = 32/mse-full"} {
		if !strings.Contains(out, want) {
			t.Errorf("inspect does not say %q:\n%s", want, out)
		}
	}

	// One flipped bit is seen by both commands that look.
	file := filepath.Join(run, "exports", "32step_unet.safetensors")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := runCommand(t, "inspect", "--values", filepath.Dir(file)); code != 1 || !strings.Contains(errs, "modelspec.hash_sha256") {
		t.Errorf("inspect of a damaged file: code %d, %q", code, errs)
	}
	if _, errs, code := runCommand(t, "check", run); code != 1 || !strings.Contains(errs, "1 damaged") {
		t.Errorf("check of a damaged file: code %d, %q", code, errs)
	}

	if _, errs, code := runCommand(t, "export", run, "--model", t.TempDir()); code != 1 || !strings.Contains(errs, "the base model is not there") {
		t.Errorf("without the base model: code %d, %q", code, errs)
	}
	dir := filepath.Join(t.TempDir(), "pipeline")
	if out, errs, code := runCommand(t, "export", run, "--steps", "32", "--out", dir, "--dtype", "f32"); code != 0 || out != dir+"\n" {
		t.Fatalf("code %d, %q, %q", code, out, errs)
	}
	f, err := weights.OpenModel(filepath.Join(dir, "unet"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if tensor, err := f.Tensor("conv_in.weight"); err != nil || tensor.DType != weights.F32 {
		t.Errorf("%+v, %v", tensor, err)
	}
	if _, errs, code := runCommand(t, "export", run, "--steps", "32", "--out", dir); code != 1 || !strings.Contains(errs, "not empty") {
		t.Errorf("over an existing directory: code %d, %q", code, errs)
	}
	single := filepath.Join(t.TempDir(), "32step.safetensors")
	if out, errs, code := runCommand(t, "export", run, "--steps", "32", "--out", single); code != 0 || out != single+"\n" {
		t.Fatalf("code %d, %q, %q", code, out, errs)
	}
	out, _, code = runCommand(t, "inspect", "--values", single)
	for _, want := range []string{"kind        single file of SDXL: UNet, VAE, text encoders", "whole       yes", "hash        sound", "fewstep.sampler.steps = 32"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("inspect of the single file, code %d, does not say %q:\n%s", code, want, out)
		}
	}
	release := filepath.Join(t.TempDir(), "release")
	if out, errs, code := runCommand(t, "export", run, "--release", "mini", "--out", release); code != 0 || strings.Count(out, "\n") != 5 || !strings.Contains(out, "mini_32step_unet.safetensors") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	if _, errs, code := runCommand(t, "export", run, "--release", "mini", "--steps", "32", "--out", release); code != 2 || !strings.Contains(errs, "--release takes --out") {
		t.Errorf("code %d, %q", code, errs)
	}
	if _, errs, code := runCommand(t, "export", run, "--steps", "8", "--out", dir+"8"); code != 1 || !strings.Contains(errs, "it has --steps 32 --full") {
		t.Errorf("steps that are not made yet: code %d, %q", code, errs)
	}
}

// A value that is not finite ends inspect with an error that names the tensor.
func TestInspectNotFinite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	nan := weights.Tensor{Name: "conv_in.weight", DType: weights.F16, Shape: []int{1}, Data: []byte{0x00, 0x7e}}
	if err := weights.Write(path, []weights.Tensor{nan}, nil); err != nil {
		t.Fatal(err)
	}
	out, errs, code := runCommand(t, "inspect", "--values", path)
	if code != 1 || !strings.Contains(out, "NaN or infinity in 1 tensors") || !strings.Contains(errs, "conv_in.weight") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
}
