package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/weights"
	"fewstep/train/tinypipeline"
)

// Stable Diffusion 1 and 2 are inspected, converted, drawn from every form alike, and have LoRAs of their own names read,
// merged, extracted and written.
func TestStableDiffusionFiles(t *testing.T) {
	for version, family := range []string{1: "Stable Diffusion 1", 2: "Stable Diffusion 2"} {
		if version == 0 {
			continue
		}
		t.Run(family, func(t *testing.T) {
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			if err := tinypipeline.SD(at("model"), filepath.Join("..", "..", "model", "clip", "testdata"), version); err != nil {
				t.Fatal(err)
			}
			run := func(args ...string) string {
				t.Helper()
				out, errs, code := runCommand(t, args...)
				if code != 0 {
					t.Fatalf("%q: code %d, %q", args, code, errs)
				}
				return out + errs
			}
			draw := func(out string, args ...string) []byte {
				t.Helper()
				run(append([]string{"sample", "--backend", "go", "--prompt", "red disc", "--steps", "2", "--guidance", "3", "--out", at(out)}, args...)...)
				raw, err := os.ReadFile(at(out))
				if err != nil {
					t.Fatal(err)
				}
				return raw
			}
			run("convert", at("model"), at("single.safetensors"))
			if said := run("inspect", at("single.safetensors")); !strings.Contains(said, family) || strings.Contains(said, "not fewstep") || strings.Contains(said, "v_prediction") != (version == 2) {
				t.Errorf("inspect: %q", said)
			}
			run("convert", at("single.safetensors"), at("back"))
			plain := draw("a.png", "--model", at("model"))
			for _, form := range []string{"single.safetensors", "back"} {
				if !bytes.Equal(plain, draw("b.png", "--model", at(form))) {
					t.Errorf("%s draws another picture", form)
				}
			}
			if said := run("sample", "--backend", "go", "--prompt", "x", "--steps", "1", "--model", at("model"), "--crop", "4,2", "--out", at("c.png")); !strings.Contains(said, "micro-conditions have no effect") {
				t.Errorf("%q", said)
			}

			const layer = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
			const text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
			err := weights.Write(at("l.safetensors"), []weights.Tensor{
				ones("lora_unet_"+layer+".lora_down.weight", 0.3, 1, 8), ones("lora_unet_"+layer+".lora_up.weight", 0.5, 8, 1), ones("lora_unet_"+layer+".alpha", 1),
				weights.FromFloat32(text+".lora_down.weight", []int{1, 8}, []float32{1, 2, 3, 0, 0, -9, 0, 1}, weights.F32), ones(text+".lora_up.weight", 0.25, 8, 1), ones(text+".alpha", 1),
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			with := draw("d.png", "--model", at("model"), "--lora", at("l.safetensors"))
			run("lora", "merge", "--model", at("model"), "--lora", at("l.safetensors"), "--out", at("merged"), "--dtype", "f32")
			run("lora", "merge", "--model", at("single.safetensors"), "--lora", at("l.safetensors"), "--out", at("merged.safetensors"), "--dtype", "f32")
			if bytes.Equal(with, plain) || !bytes.Equal(with, draw("e.png", "--model", at("merged"))) || !bytes.Equal(with, draw("f.png", "--model", at("merged.safetensors"))) {
				t.Error("the LoRA changes nothing, or merged it is another")
			}
			run("convert", at("l.safetensors"), at("kohya.safetensors"), "--base", at("model"))
			f, err := weights.Open(at("kohya.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			names := f.Names()
			f.Close()
			if !slices.Contains(names, text+".alpha") || !slices.Contains(names, "lora_unet_"+layer+".lora_up.weight") {
				t.Errorf("written as %v", names)
			}
			run("lora", "extract", "--backend", "go", "--base", at("model"), "--tuned", at("merged"), "--rank", "1", "--out", at("x.safetensors"))
			f, err = weights.Open(at("x.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			names = f.Names()
			f.Close()
			if len(names) != 3 || !slices.Contains(names, "lora_unet_"+layer+".lora_down.weight") {
				t.Errorf("extracted %v", names)
			}
		})
	}
}
