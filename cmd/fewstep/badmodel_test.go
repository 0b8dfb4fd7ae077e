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

const (
	unetFile  = "diffusion_pytorch_model.safetensors"
	badTensor = "conv_in.bias" // the one that is spoilt
)

// header edits a weights file's JSON header, keeping its length or moving the data.
func header(t *testing.T, path string, edit func(header string) string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(raw)
	text := edit(string(raw[8 : 8+n]))
	if text == string(raw[8:8+n]) {
		t.Fatal("the edit changed nothing")
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	if err := os.WriteFile(path, append(append(out, text...), raw[8+n:]...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// entry changes a part of the spoilt tensor's entry in the header.
func entry(old, new string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		header(t, path, func(h string) string {
			at := strings.Index(h, `"`+badTensor+`":`)
			return h[:at] + strings.Replace(h[at:], old, new, 1)
		})
	}
}

// Every command that reads a model refuses a damaged one with one error, which names the file and the tensor, and makes
// nothing.
func TestDamagedModels(t *testing.T) {
	home := t.TempDir()
	good := filepath.Join(home, "good")
	if err := tinypipeline.Model(good, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	all := []string{"inspect", "sample", "convert", "merge", "extract"}
	for name, c := range map[string]struct {
		spoil    func(t *testing.T, unet string)
		want     []string // in the message, beside the file
		commands []string
	}{
		"cut off": {func(t *testing.T, f string) {
			if err := os.Truncate(f, 60000); err != nil {
				t.Fatal(err)
			}
		}, []string{"tensor ", "lie outside", "truncated"}, all},
		"half downloaded": {func(t *testing.T, f string) {
			if err := os.WriteFile(f, make([]byte, 100000), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"unfinished download"}, all},
		"Git LFS pointer": {func(t *testing.T, f string) {
			if err := os.WriteFile(f, []byte("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"git lfs pull"}, all},
		"unknown dtype":     {entry(`"F32"`, `"F33"`), []string{badTensor, `unknown dtype "F33"`}, all},
		"overflowing shape": {entry(`[8]`, `[9223372036854775807,8]`), []string{badTensor, "too large"}, all},
		"name twice": {func(t *testing.T, f string) {
			header(t, f, func(h string) string { return strings.Replace(h, `"conv_norm_out.bias":`, `"`+badTensor+`":`, 1) })
		}, []string{badTensor, "twice"}, all},
		"overlap": {func(t *testing.T, f string) {
			header(t, f, func(h string) string {
				at := strings.Index(h, `"`+badTensor+`":`)
				begin := at + strings.Index(h[at:], `"data_offsets":[`) + len(`"data_offsets":[`)
				return h[:begin] + "0" + h[begin+strings.Index(h[begin:], ","):]
			})
		}, []string{badTensor, "span"}, all},
		"missing shard": {func(t *testing.T, f string) {
			if err := os.WriteFile(f+".index.json", []byte(`{"weight_map":{"`+badTensor+`":"part-2.safetensors"}}`), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"index.json", "part-2.safetensors", "no such file"}, all},
		"pickled": {func(t *testing.T, f string) {
			if err := os.Rename(f, strings.TrimSuffix(f, ".safetensors")+".bin"); err != nil {
				t.Fatal(err)
			}
		}, []string{"pickled weights", "weights_only=True"}, all},
		"NaN": {func(t *testing.T, f string) {
			rewrite(t, f, f+".new", func(x weights.Tensor) weights.Tensor {
				if x.Name == badTensor {
					x.Data = append([]byte{0, 0, 0xc0, 0x7f}, x.Data[4:]...)
				}
				return x
			})
			if err := os.Rename(f+".new", f); err != nil {
				t.Fatal(err)
			}
		}, []string{badTensor, "finite"}, []string{"sample", "convert", "merge", "extract", "inspect --values"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			model := filepath.Join(dir, "bad")
			if err := os.CopyFS(model, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, filepath.Join(model, "unet", unetFile))
			lora := tinyLoRA(t, "conv_in")
			for _, command := range c.commands {
				out := filepath.Join(dir, "out")
				args := map[string][]string{
					"inspect":          {"inspect", filepath.Join(model, "unet")},
					"inspect --values": {"inspect", "--values", filepath.Join(model, "unet")},
					"sample":           {"sample", "--backend", "go", "--quiet", "--model", model, "--prompt", "x", "--steps", "1", "--out", out},
					"convert":          {"convert", model, out},
					"merge":            {"lora", "merge", "--model", model, "--lora", lora, "--out", out},
					"extract":          {"lora", "extract", "--backend", "go", "--quiet", "--base", good, "--tuned", model, "--rank", "1", "--out", out},
				}[command]
				_, errs, code := runCommand(t, args...)
				if code != exitFailure || strings.Count(errs, "\n") > 2 {
					t.Errorf("%s: code %d, %q", command, code, errs)
				}
				for _, want := range append(c.want, filepath.Join(model, "unet")) {
					if !strings.Contains(errs, want) {
						t.Errorf("%s: the message lacks %q: %s", command, want, errs)
					}
				}
				if _, err := os.Stat(out); err == nil {
					t.Errorf("%s made something of it", command)
				}
			}
		})
	}
}

// tinyLoRA is an adapter of a layer that takes and makes what the tiny model's conv_in does.
func tinyLoRA(t *testing.T, layer string) string {
	t.Helper()
	name := "lora_unet_" + strings.ReplaceAll(layer, ".", "_")
	path := filepath.Join(t.TempDir(), "lora.safetensors")
	err := weights.Write(path, []weights.Tensor{
		weights.FromFloat32(name+".lora_down.weight", []int{1, 4, 3, 3}, kernel(), weights.F16),
		weights.FromFloat32(name+".lora_up.weight", []int{8, 1, 1, 1}, make([]float32, 8), weights.F16),
		weights.FromFloat32(name+".alpha", []int{}, []float32{1}, weights.F16),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func kernel() []float32 {
	v := make([]float32, 36)
	for i := range v {
		v[i] = float32(i) / 36
	}
	return v
}

// A LoRA for another architecture is refused by the name of its module, wherever it is given.
func TestLoRAOfAnotherModel(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := tinypipeline.Model(model, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	for layer, want := range map[string]string{
		"down_blocks.7.attentions.0.proj_in": "down_blocks_7_attentions_0_proj_in",
		"conv_out":                           "conv_out",
	} {
		lora, out := tinyLoRA(t, layer), filepath.Join(dir, "out")
		for _, args := range [][]string{
			{"sample", "--backend", "go", "--quiet", "--model", model, "--lora", lora, "--prompt", "x", "--steps", "1", "--out", out},
			{"lora", "merge", "--model", model, "--lora", lora, "--out", out},
		} {
			_, errs, code := runCommand(t, args...)
			if code != exitFailure || !strings.Contains(errs, lora) || !strings.Contains(errs, want) || strings.Count(errs, "\n") > 2 {
				t.Errorf("%s: code %d, %q", args[0], code, errs)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("something was made of it")
			}
		}
	}
}

// A folder that cannot be written to is told by name, and nothing is left in it.
func TestReadOnlyTargets(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := tinypipeline.Model(model, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	closed, run := stranger(t, dir)
	lora := tinyLoRA(t, "conv_in")
	raw, err := os.ReadFile(lora)
	if err != nil {
		t.Fatal(err)
	}
	lora = filepath.Join(dir, "lora.safetensors")
	if err := os.WriteFile(lora, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"convert", model, filepath.Join(closed, "directory")},
		{"convert", model, filepath.Join(closed, "single.safetensors")},
		{"convert", model, filepath.Join(closed, "unet.safetensors"), "--to", "unet"},
		{"convert", lora, filepath.Join(closed, "lora.safetensors"), "--base", model},
		{"lora", "merge", "--model", model, "--lora", lora, "--out", filepath.Join(closed, "merged.safetensors")},
		{"sample", "--backend", "go", "--quiet", "--model", model, "--prompt", "x", "--steps", "1", "--out", filepath.Join(closed, "x.png")},
	} {
		out, code := run(args...)
		if code != exitFailure || !bytes.Contains(out, []byte("permission denied")) || !bytes.Contains(out, []byte(closed)) || bytes.Count(out, []byte("\n")) > 2 {
			t.Errorf("%v: code %d, %s", args, code, out)
		}
	}
	if entries, err := os.ReadDir(closed); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
