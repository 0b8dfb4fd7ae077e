package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
	"fewstep/train/tinypipeline"
)

// tinyModel is the tiny pipeline.
func tinyModel(t *testing.T) string {
	t.Helper()
	model := filepath.Join(t.TempDir(), "model")
	if err := tinypipeline.Model(model, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	return model
}

// ones is a tensor of equal values.
func ones(name string, value float32, shape ...int) weights.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = value
	}
	return weights.FromFloat32(name, shape, v, weights.F32)
}

func floatsOf(t *testing.T, model, component, name string) []float32 {
	t.Helper()
	src, err := pipeline.OpenWeights(model, component)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	return weightstest.Floats(t, src, name)
}

// A LoRA's parts for text encoders change them, merged and in pictures; what is bundled with it is told; converted, they
// stay.
func TestLoRAOfTextEncoders(t *testing.T) {
	model, dir := tinyModel(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	const first, second = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "lora_te2_text_model_encoder_layers_0_mlp_fc1"
	err := weights.Write(at("l.safetensors"), []weights.Tensor{
		weights.FromFloat32(first+".lora_down.weight", []int{1, 4}, []float32{1, 0, -2, 4}, weights.F32), ones(first+".lora_up.weight", 0.5, 4, 1), ones(first+".alpha", 1),
		weights.FromFloat32(second+".lora_down.weight", []int{1, 8}, []float32{1, 2, 3, 0, 0, -9, 0, 1}, weights.F32), ones(second+".lora_up.weight", 0.25, 16, 1), ones(second+".alpha", 1),
		ones("bundle_emb.a name.clip_l", 1, 2, 4)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, errs, code := runCommand(t, "lora", "merge", "--model", model, "--lora", at("l.safetensors")+":2", "--out", at("merged"))
	if code != 0 || !strings.Contains(errs, "bundle_emb.a name.clip_l") {
		t.Fatalf("code %d, %q", code, errs)
	}
	for _, c := range []struct {
		component, name string
		more            float32
	}{{ldm.Text, "text_model.encoder.layers.0.self_attn.q_proj.weight", 1}, {ldm.Text2, "text_model.encoder.layers.0.mlp.fc1.weight", 0.5}, {ldm.UNet, "conv_in.weight", 0}} {
		before, after := floatsOf(t, model, c.component, c.name), floatsOf(t, at("merged"), c.component, c.name)
		for i := range before[:1] { // the first input's
			if d := after[i] - before[i] - c.more; d > 1e-3 || d < -1e-3 {
				t.Fatalf("%s of %s: %g became %g", c.name, c.component, before[i], after[i])
			}
		}
	}
	// A single strength: drawn with the LoRA, the picture is that of the merged model.
	if floatsOf(t, at("merged"), ldm.UNet, "conv_in.weight")[9] != floatsOf(t, model, ldm.UNet, "conv_in.weight")[9] {
		t.Error("the UNet was changed")
	}
	if _, errs, code := runCommand(t, "lora", "merge", "--model", model, "--lora", at("l.safetensors"), "--out", at("once"), "--dtype", "f32"); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	draw := func(out string, args ...string) []byte {
		t.Helper()
		_, errs, code := runCommand(t, append([]string{"sample", "--backend", "go", "--prompt", "cat face", "--steps", "1", "--out", at(out)}, args...)...)
		if code != 0 {
			t.Fatalf("code %d, %q", code, errs)
		}
		raw, err := os.ReadFile(at(out))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	merged, with, without := draw("a.png", "--model", at("once")), draw("b.png", "--model", model, "--lora", at("l.safetensors")), draw("c.png", "--model", model)
	if !bytes.Equal(merged, with) || bytes.Equal(with, without) {
		t.Errorf("merged and drawn with the LoRA are equal: %t; with and without it: %t", bytes.Equal(merged, with), bytes.Equal(with, without))
	}
	if _, errs, code := runCommand(t, "convert", at("l.safetensors"), at("c.safetensors"), "--base", model); code != exitFailure || !strings.Contains(errs, "no UNet modules") {
		t.Errorf("a LoRA of text encoders alone, converted: code %d, %q", code, errs)
	}
}

// A folder that PEFT saved is a LoRA like a file, scaled by its config, and converted it needs none.
func TestAdapterFolder(t *testing.T) {
	model, dir := tinyModel(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(at("adapter"), 0o777); err != nil {
		t.Fatal(err)
	}
	tensors := []weights.Tensor{ones("base_model.model.conv_in.lora_A.style.weight", 1, 2, 4, 3, 3), ones("base_model.model.conv_in.lora_B.style.weight", 1, 8, 2, 1, 1)}
	if err := weights.Write(at("adapter/adapter_model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("adapter/adapter_config.json"), []byte(`{"peft_type": "LORA", "r": 2, "lora_alpha": 16, "alpha_pattern": {"in": 2, "conv_in": 3}}`), 0o666); err != nil {
		t.Fatal(err)
	}
	out, _, code := runCommand(t, "inspect", at("adapter"))
	if code != 0 || !strings.Contains(out, "LoRA: PEFT's names, 1 modules, rank 2") {
		t.Errorf("code %d, %s", code, out)
	}
	for _, names := range []string{"sgm", "diffusers"} {
		if _, errs, code := runCommand(t, "convert", at("adapter"), at(names+".safetensors"), "--base", model, "--dtype", "f32", "--lora-names", names); code != 0 || errs != "" {
			t.Fatalf("code %d, %q", code, errs)
		}
	}
	f, err := weights.Open(at("sgm.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.Names(), "lora_unet_input_blocks_0_0.lora_down.weight") {
		t.Errorf("%v", f.Names())
	}
	f.Close()
	for _, name := range []string{"adapter", "adapter/adapter_model.safetensors", "sgm.safetensors", "diffusers.safetensors"} {
		merged := filepath.Join(t.TempDir(), "m")
		if _, errs, code := runCommand(t, "lora", "merge", "--model", model, "--lora", at(name), "--out", merged, "--dtype", "f32"); code != 0 {
			t.Fatalf("%s: code %d, %q", name, code, errs)
		}
		if d := floatsOf(t, merged, ldm.UNet, "conv_in.weight")[0] - floatsOf(t, model, ldm.UNet, "conv_in.weight")[0]; d < 2.99 || d > 3.01 { // 2·1·1 times 3/2
			t.Errorf("%s changes by %g, want 3", name, d)
		}
	}
}

// A base in fp8 takes a LoRA where --dtype names a type that can hold it.
func TestMergeIntoFP8(t *testing.T) {
	model, dir := tinyModel(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if _, errs, code := runCommand(t, "convert", model, at("whole.safetensors")); code != 0 {
		t.Fatal(errs)
	}
	f, err := weights.Open(at("whole.safetensors"))
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
		if strings.HasPrefix(name, "model.diffusion_model.") && len(x.Shape) > 1 {
			x.DType, x.Data = weights.F8E4M3, bytes.Repeat([]byte{0x38}, x.Elements()) // 1 everywhere
			x = weights.Tensor{Name: x.Name, DType: x.DType, Shape: x.Shape, Data: x.Data}
		}
		tensors = append(tensors, x)
	}
	if err := weights.Write(at("fp8.safetensors"), tensors, f.Metadata()); err != nil {
		t.Fatal(err)
	}
	err = lora.Write(at("l.safetensors"), []lora.Module{{Path: "conv_in", Rank: 1, Alpha: 1, Down: lora.Matrix{Shape: []int{1, 4, 3, 3}, Data: slices.Repeat([]float32{1}, 36)},
		Up: lora.Matrix{Shape: []int{8, 1, 1, 1}, Data: slices.Repeat([]float32{0.125}, 8)}}}, lora.SGM, nil, weights.F32, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, errs, code := runCommand(t, "lora", "merge", "--model", at("fp8.safetensors"), "--lora", at("l.safetensors"), "--out", at("m.safetensors"))
	if code != exitFailure || !strings.Contains(errs, "F8_E4M3") || !strings.Contains(errs, "--dtype") {
		t.Errorf("code %d, %q", code, errs)
	}
	if _, errs, code := runCommand(t, "lora", "merge", "--model", at("fp8.safetensors"), "--lora", at("l.safetensors"), "--out", at("m.safetensors"), "--dtype", "fp16"); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	if got := floatsOf(t, at("m.safetensors"), ldm.UNet, "conv_in.weight")[0]; got != 1.125 {
		t.Errorf("merged %g", got)
	}
	if got := floatsOf(t, at("m.safetensors"), ldm.UNet, "mid_block.resnets.0.conv1.weight")[0]; got != 1 {
		t.Errorf("unchanged %g", got)
	}
}

// A UNet file under LDM's names has no prefix, and says what it predicts by tensors.
func TestUNetUnderLDMsNames(t *testing.T) {
	model, dir := tinyModel(t), t.TempDir()
	config := filepath.Join(model, "scheduler", "scheduler_config.json")
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.Replace(raw, []byte(`"epsilon"`), []byte(`"v_prediction", "rescale_betas_zero_snr": true`), 1), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "u.safetensors")
	if _, errs, code := runCommand(t, "convert", model, out, "--to", "unet-ldm"); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	f, err := weights.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, name := range []string{"input_blocks.0.0.weight", "v_pred", "ztsnr"} {
		if !slices.Contains(f.Names(), name) {
			t.Errorf("no tensor %s", name)
		}
	}
	if _, errs, code := runCommand(t, "sample", "--backend", "go", "--model", model, "--unet", out, "--prompt", "x", "--steps", "1", "--out", filepath.Join(dir, "x.png")); code != 0 {
		t.Errorf("code %d, %q", code, errs)
	}
}
