package main

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
)

// writeLoRA saves an adapter of three of mini's layers.
func writeLoRA(t *testing.T) string {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 8))
	normal := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64()) / 8
		}
		return v
	}
	modules := []lora.Module{
		{Path: "mid_block.attentions.0.proj_in", Rank: 2, Alpha: 1, Down: lora.Matrix{Shape: []int{2, 128}, Data: normal(256)}, Up: lora.Matrix{Shape: []int{128, 2}, Data: normal(256)}},
		{Path: "mid_block.resnets.0.conv1", Rank: 2, Alpha: 1, Down: lora.Matrix{Shape: []int{2, 128, 3, 3}, Data: normal(2304)}, Up: lora.Matrix{Shape: []int{128, 2, 1, 1}, Data: normal(256)}},
		{Path: "up_blocks.2.resnets.0.conv_shortcut", Rank: 2, Alpha: 1, Down: lora.Matrix{Shape: []int{2, 96, 1, 1}, Data: normal(192)}, Up: lora.Matrix{Shape: []int{32, 2, 1, 1}, Data: normal(64)}},
	}
	path := filepath.Join(t.TempDir(), "three.safetensors")
	if err := lora.Write(path, modules, lora.Diffusers, nil, weights.F32, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

func unetOf(t *testing.T, path string) weights.Source {
	t.Helper()
	b, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	src, err := b.Weights(ldm.UNet)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// apart is the largest difference between two UNets.
func apart(t *testing.T, a, b weights.Source) (worst float64) {
	t.Helper()
	for _, name := range a.Names() {
		var v [2][]float32
		for i, src := range []weights.Source{a, b} {
			x, err := src.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if v[i], err = x.Float32(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range v[0] {
			worst = max(worst, math.Abs(float64(v[0][i]-v[1][i])))
		}
	}
	return worst
}

// What was merged comes out again by extraction, and merged once more gives the same model.
func TestLoRAMergeAndExtract(t *testing.T) {
	const mini = "../../assets/mini"
	dir, file := t.TempDir(), writeLoRA(t)
	merged := filepath.Join(dir, "merged.safetensors")
	if out, errs, code := runCommand(t, "lora", "merge", "--model", mini, "--lora", file+":0.75", "--lora", file+":0.25", "--dtype", "f32", "--out", merged); code != 0 || out != merged+"\n" {
		t.Fatalf("code %d, %q, %q", code, out, errs)
	}
	base, tuned := unetOf(t, mini), unetOf(t, merged)
	if d := apart(t, base, tuned); d < 0.05 {
		t.Errorf("the merge changed nothing: %g", d)
	}
	again := filepath.Join(dir, "again.safetensors")
	out, errs, code := runCommand(t, "lora", "extract", "--base", mini, "--tuned", merged, "--rank", "4", "--dtype", "f32", "--out", again, "--json")
	var said extracted
	if err := json.Unmarshal([]byte(out), &said); code != 0 || err != nil {
		t.Fatalf("code %d, %q, %q, %v", code, out, errs, err)
	}
	if said.Modules != 3 || said.Error > 2e-3 || len(said.LeftOut) != 0 {
		t.Errorf("%+v", said)
	}
	twice := filepath.Join(dir, "twice")
	if _, errs, code := runCommand(t, "lora", "merge", "--model", mini, "--lora", again, "--dtype", "f32", "--out", twice); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	if d := apart(t, tuned, unetOf(t, twice)); d > 1e-4 {
		t.Errorf("merged again, a weight is %g off", d)
	}
	off := filepath.Join(dir, "off")
	if _, errs, code := runCommand(t, "lora", "merge", "--model", mini, "--lora", file+":0", "--out", off); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	if d := apart(t, base, unetOf(t, off)); d != 0 {
		t.Errorf("at strength 0 a weight is %g off", d)
	}
	// PEFT's names become kohya's.
	f, err := weights.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var peft []weights.Tensor
	for _, m := range []string{"mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1", "up_blocks.2.resnets.0.conv_shortcut"} {
		for from, to := range map[string]string{".lora_down.weight": ".lora_A.weight", ".lora_up.weight": ".lora_B.weight"} {
			x, err := f.Tensor("lora_unet_" + strings.ReplaceAll(m, ".", "_") + from)
			if err != nil {
				t.Fatal(err)
			}
			x.Name = "unet." + m + to
			peft = append(peft, x)
		}
	}
	other := filepath.Join(dir, "peft.safetensors")
	if err := weights.Write(other, peft, map[string]string{"lora_adapter_metadata": `{"unet.lora_alpha": 1}`}); err != nil {
		t.Fatal(err)
	}
	kohya := filepath.Join(dir, "kohya.safetensors")
	if _, errs, code := runCommand(t, "convert", other, kohya, "--base", mini, "--lora-names", "diffusers"); code != 0 {
		t.Fatalf("code %d, %q", code, errs)
	}
	g, err := weights.Open(kohya)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if !slices.Equal(f.Names(), g.Names()) || apart(t, f, g) != 0 {
		t.Errorf("names %v, %g off", g.Names(), apart(t, f, g))
	}
	if _, errs, code := runCommand(t, "convert", other, filepath.Join(dir, "x"), "--to", "directory"); code != 2 || !strings.Contains(errs, "is a LoRA") {
		t.Errorf("code %d, %q", code, errs)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--model, --lora and --out are needed", []string{"merge", "--model", mini}},
		{"it has no modules of a LoRA", []string{"merge", "--model", mini, "--lora", mini + "/vae/diffusion_pytorch_model.safetensors", "--out", dir + "/x"}},
		{"do not differ", []string{"extract", "--base", mini, "--tuned", mini, "--out", dir + "/x.safetensors"}},
		{"rank is 0", []string{"extract", "--base", mini, "--tuned", mini, "--out", dir + "/x.safetensors", "--rank", "0"}},
	} {
		if _, errs, code := runCommand(t, append([]string{"lora"}, c.args...)...); code == 0 || !strings.Contains(errs, c.want) {
			t.Errorf("%v: code %d, %q", c.args, code, errs)
		}
	}
}
