package lora

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/model/ldm"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
)

// Adapters of every kind, as PEFT saves them beside their configs, make of a base what PEFT makes of it: scales by rank and
// alpha patterns, rank-stabilised ones, DoRA, biases, LoHa and LoKr with cores and without.
func TestKindsAsPEFT(t *testing.T) {
	base, err := weights.Open("testdata/kinds/base.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	for name, kind := range map[string]string{"patterns": KindLoRA, "rslora": KindLoRA, "dora": "DoRA of LoRA", "bias": KindLoRA, "loha": KindLoHa, "loha_flat": KindLoHa,
		"lokr": KindLoKr, "lokr_both": KindLoKr, "lokr_whole": KindLoKr} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join("testdata", "kinds", name)
			path, err := File(folder)
			if err != nil || filepath.Base(path) != "adapter_model.safetensors" {
				t.Fatal(path, err)
			}
			a, err := Open(path, Layers{ldm.UNet: AllLayers(base)})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range a.Changes {
				if c.kind() != kind {
					t.Errorf("%s is %s, want %s", c.Path, c.kind(), kind)
				}
			}
			if len(a.Notes()) > 0 {
				t.Errorf("notes %v", a.Notes())
			}
			want, err := weights.Open(filepath.Join(folder, "merged.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			got, err := a.Merged(ldm.UNet, base, 1, "")
			if err != nil {
				t.Fatal(err)
			}
			half, err := a.Merged(ldm.UNet, base, 0.5, "")
			if err != nil {
				t.Fatal(err)
			}
			changed := 0
			for _, name := range want.Names() {
				w, g, b, h := weightstest.Floats(t, want, name), weightstest.Floats(t, got, name), weightstest.Floats(t, base, name), weightstest.Floats(t, half, name)
				if maxDifference(w, b) > 1e-3 {
					changed++
				}
				if d := maxDifference(w, g); d > 2e-5 {
					t.Errorf("%s differs by %g", name, d)
				}
				for i := range h {
					if math.Abs(float64(h[i])-(float64(b[i])+float64(w[i]))/2) > 2e-5 {
						t.Fatalf("%s at half strength is %g between %g and %g", name, h[i], b[i], w[i])
					}
				}
			}
			if changed < len(a.Changes) || len(a.Changes) < 2 {
				t.Errorf("%d tensors of %d changes differ from the base", changed, len(a.Changes))
			}
		})
	}
}

// What sd-scripts and LyCORIS write and PEFT has no name for, against the sums that define it.
func TestKindsOfLyCORIS(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	random := func(shape ...int) Matrix {
		m := matrix(r, shape...)
		for i := range m.Data {
			m.Data[i] /= 2
		}
		return m
	}
	const out, in, k, rank = 5, 4, 3, 2
	w, bias, norm := random(out, in, k, k), random(out), random(out)
	up, down, mid := random(out, rank, 1, 1), random(rank, in, 1, 1), random(rank, rank, k, k)
	byInput, byOutput := random(1, in, 1, 1), random(out, 1, 1, 1)
	change := make([]float64, len(w.Data)) // alpha 3, scalar 0.5
	for o := range out {
		for i := range in {
			for x := range k * k {
				for a := range rank {
					for b := range rank {
						change[(o*in+i)*k*k+x] += 3.0 / rank * 0.5 * float64(up.Data[o*rank+a]) * float64(mid.Data[(a*rank+b)*k*k+x]) * float64(down.Data[b*in+i])
					}
				}
			}
		}
	}
	plain := map[string]Matrix{"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid, "alpha": {[]int{}, []float32{3}}, "scalar": {[]int{}, []float32{0.5}}}
	with := func(more map[string]Matrix) map[string]Matrix {
		all := map[string]Matrix{}
		for name, m := range plain {
			all["lora_unet_conv."+name] = m
		}
		for name, m := range more {
			all[name] = m
		}
		return all
	}
	scaled := func(by Matrix, group func(o, i int) int) func(o, i, x int) float64 {
		norms := make([]float64, len(by.Data))
		for at, v := range w.Data {
			g := group(at/(in*k*k), at/(k*k)%in)
			norms[g] += (float64(v) + change[at]) * (float64(v) + change[at])
		}
		return func(o, i, x int) float64 {
			at := (o*in+i)*k*k + x
			g := group(o, i)
			return (float64(w.Data[at]) + change[at]) * float64(by.Data[g]) / math.Sqrt(norms[g])
		}
	}
	for what, c := range map[string]struct {
		tensors map[string]Matrix
		want    func(o, i, x int) float64
		bias    float64
		norm    float64
	}{
		"LoCon with mid": {with(nil), func(o, i, x int) float64 { at := (o*in+i)*k*k + x; return float64(w.Data[at]) + change[at] }, 0, 0},
		"DoRA by input":  {with(map[string]Matrix{"lora_unet_conv.dora_scale": byInput}), scaled(byInput, func(o, i int) int { return i }), 0, 0},
		"DoRA by output": {with(map[string]Matrix{"lora_unet_conv.dora_scale": byOutput}), scaled(byOutput, func(o, i int) int { return o }), 0, 0},
		"differences": {map[string]Matrix{"lora_unet_conv.diff": w, "lora_unet_conv.diff_b": bias, "lora_unet_norm.w_norm": norm}, func(o, i, x int) float64 {
			return 2 * float64(w.Data[(o*in+i)*k*k+x])
		}, 1, 1},
	} {
		var file []weights.Tensor
		for name, m := range c.tensors {
			file = append(file, weights.FromFloat32(name, m.Shape, m.Data, weights.F32))
		}
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := weights.Write(path, file, nil); err != nil {
			t.Fatal(err)
		}
		base := weights.Collect([]weights.Tensor{weights.FromFloat32("conv.weight", w.Shape, w.Data, weights.F32), weights.FromFloat32("conv.bias", bias.Shape, bias.Data, weights.F32),
			weights.FromFloat32("norm.weight", norm.Shape, norm.Data, weights.F32)})
		a, err := Open(path, Layers{ldm.UNet: AllLayers(base)})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		merged, err := a.Merged(ldm.UNet, base, 1, "")
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got := weightstest.Floats(t, merged, "conv.weight")
		for o := range out {
			for i := range in {
				for x := range k * k {
					if g, want := float64(got[(o*in+i)*k*k+x]), c.want(o, i, x); math.Abs(g-want) > 1e-4*(1+math.Abs(want)) {
						t.Fatalf("%s: [%d %d %d] is %g, want %g", what, o, i, x, g, want)
					}
				}
			}
		}
		for i, v := range weightstest.Floats(t, merged, "conv.bias") {
			if want := float64(bias.Data[i]) * (1 + c.bias); math.Abs(float64(v)-want) > 1e-6 {
				t.Errorf("%s: bias %d is %g, want %g", what, i, v, want)
			}
		}
		for i, v := range weightstest.Floats(t, merged, "norm.weight") {
			if want := float64(norm.Data[i]) * (1 + c.norm); math.Abs(float64(v)-want) > 1e-6 {
				t.Errorf("%s: norm %d is %g, want %g", what, i, v, want)
			}
		}
		if _, err := a.Modules(); err == nil || !strings.Contains(err.Error(), "no plain LoRA") {
			t.Errorf("%s as plain LoRA: %v", what, err)
		}
	}
}

// A module's name finds its layer behind any prefix and in any spelling, and no other.
func TestResolves(t *testing.T) {
	resolve, err := resolverOf(Layers{
		ldm.UNet: {"conv_in", "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1", "down_blocks.0.downsamplers.0.conv", "down_blocks.1.resnets.0.conv1",
			"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0", "mid_block.attentions.0.proj_in"},
		ldm.Text: {"text_model.encoder.layers.0.self_attn.q_proj"}, ldm.Text2: {"text_model.encoder.layers.0.self_attn.q_proj", "text_projection"}})
	if err != nil {
		t.Fatal(err)
	}
	const attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
	for name, want := range map[string]target{
		attention:                            {ldm.UNet, attention},
		"unet." + attention:                  {ldm.UNet, attention},
		"unet.unet." + attention:             {ldm.UNet, attention},
		"base_model.model." + attention:      {ldm.UNet, attention},
		"base_model.model.unet." + attention: {ldm.UNet, attention},
		"diffusion_model." + attention:       {ldm.UNet, attention},
		"model.diffusion_model." + attention: {ldm.UNet, attention},
		"_orig_mod." + attention:             {ldm.UNet, attention},
		"unet.module." + attention:           {ldm.UNet, attention},
		"lora_unet_" + flat(attention):       {ldm.UNet, attention},
		"lycoris_" + flat(attention):         {ldm.UNet, attention},
		"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0":                {ldm.UNet, attention},
		"input_blocks.4.1.transformer_blocks.0.attn1.to_out.0":                          {ldm.UNet, attention},
		"diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0":          {ldm.UNet, attention},
		"model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0":    {ldm.UNet, attention},
		"lora_unet_middle_block_1_proj_in":                                              {ldm.UNet, "mid_block.attentions.0.proj_in"},
		"lora_te1_text_model_encoder_layers_0_self_attn_q_proj":                         {ldm.Text, "text_model.encoder.layers.0.self_attn.q_proj"},
		"lora_te_text_model_encoder_layers_0_self_attn_q_proj":                          {ldm.Text, "text_model.encoder.layers.0.self_attn.q_proj"},
		"lora_te2_text_model_encoder_layers_0_self_attn_q_proj":                         {ldm.Text2, "text_model.encoder.layers.0.self_attn.q_proj"},
		"lora_te2_text_projection":                                                      {ldm.Text2, "text_projection"},
		"text_encoder.text_model.encoder.layers.0.self_attn.q_proj":                     {ldm.Text, "text_model.encoder.layers.0.self_attn.q_proj"},
		"text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj":                   {ldm.Text2, "text_model.encoder.layers.0.self_attn.q_proj"},
		"text_encoder_2.encoder.layers.0.self_attn.q_proj":                              {ldm.Text2, "text_model.encoder.layers.0.self_attn.q_proj"},
		"text_encoder.text_model.encoder.layers.0.self_attn.to_q":                       {ldm.Text, "text_model.encoder.layers.0.self_attn.q_proj"},
		"text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj": {ldm.Text2, "text_model.encoder.layers.0.self_attn.q_proj"},
	} {
		if got, ok := resolve.find(name); !ok || got != want {
			t.Errorf("%s is %v, %t; want %v", name, got, ok, want)
		}
	}
	for _, name := range []string{"lora_unet_other_conv_in", "controlnet.conv_in", "vae.encoder.conv_in", "lora_te3_text_model_encoder_layers_0_self_attn_q_proj",
		"conv", "in", "conv_in.x", "double_blocks.0.img_attn.proj", "lora_te1_conv_in", "text_encoder.conv_in", "lora_unet_text_model_encoder_layers_0_self_attn_q_proj", ""} {
		if got, ok := resolve.find(name); ok {
			t.Errorf("%s is taken for %v", name, got)
		}
	}
}

// A config beside the file counts for files that PEFT has named, and where it can be no other's.
func TestConfigBeside(t *testing.T) {
	dir := t.TempDir()
	one := weights.FromFloat32("base_model.model.a.b.lora_A.my-style.weight", []int{4, 1}, []float32{1, 1, 1, 1}, weights.F32)
	two := weights.FromFloat32("base_model.model.a.b.lora_B.my-style.weight", []int{1, 4}, []float32{1, 1, 1, 1}, weights.F32)
	at := func(name string) string { return filepath.Join(dir, name) }
	alphaOf := func(name string) (float64, Report) {
		t.Helper()
		modules, report, err := Read(at(name), []string{"a.b"})
		if err != nil {
			t.Fatal(err)
		}
		return modules[0].Alpha, report
	}
	write := func(name string) {
		if err := weights.Write(at(name), []weights.Tensor{one, two}, nil); err != nil {
			t.Fatal(err)
		}
	}
	write("style.safetensors")
	if got, report := alphaOf("style.safetensors"); got != 4 || !report.NoConfig || len(report.Notes()) != 1 || !strings.Contains(report.Notes()[0], configFile) {
		t.Errorf("without a config: alpha %g, %+v", got, report)
	}
	if err := os.WriteFile(at(configFile), []byte(`{"peft_type": "LORA", "r": 4, "lora_alpha": 16}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if got, report := alphaOf("style.safetensors"); got != 16 || report.NoConfig {
		t.Errorf("the only file beside a config: alpha %g, %+v", got, report)
	}
	write("adapter_model.safetensors")
	if got, _ := alphaOf("adapter_model.safetensors"); got != 16 {
		t.Errorf("adapter_model beside another file: alpha %g", got)
	}
	if got, _ := alphaOf("style.safetensors"); got != 4 {
		t.Errorf("one of several files beside a config: alpha %g", got)
	}
	if err := os.WriteFile(at(configFile), []byte(`{"lora_alpha": 16, "alpha_pattern": {"(?=x)": 3}}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(at("adapter_model.safetensors"), []string{"a.b"}); err == nil || !strings.Contains(err.Error(), configFile) || !strings.Contains(err.Error(), "(?=x)") {
		t.Errorf("a pattern that Go cannot match: %v", err)
	}
}

// What is bundled with a LoRA is left out and told; text encoders' modules change theirs where their layers are given.
func TestLeavesOutAndText(t *testing.T) {
	f := func(name string, shape ...int) weights.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = 1
		}
		return weights.FromFloat32(name, shape, v, weights.F32)
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := weights.Write(path, []weights.Tensor{f("lora_unet_a_b.lora_down.weight", 1, 2), f("lora_unet_a_b.lora_up.weight", 3, 1),
		f("lora_te1_c.lora_down.weight", 1, 2), f("lora_te1_c.lora_up.weight", 2, 1), f("lora_te1_c.alpha"), f("bundle_emb.a name.clip_l", 2, 4), f("emb_params", 2)}, nil); err != nil {
		t.Fatal(err)
	}
	a, err := Open(path, Layers{ldm.UNet: {"a.b"}})
	if err != nil || len(a.TextEncoder) != 1 || len(a.LeftOut) != 2 || len(a.Changes) != 1 || len(a.Notes()) != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	a, err = Open(path, Layers{ldm.UNet: {"a.b"}, ldm.Text: {"c"}})
	if err != nil || len(a.TextEncoder) != 0 || len(a.Changes) != 2 || !a.Has(ldm.Text) || a.Has(ldm.Text2) {
		t.Fatalf("%+v, %v", a, err)
	}
	merged, err := a.Merged(ldm.Text, weights.Collect([]weights.Tensor{f("c.weight", 2, 2)}), 2, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := weightstest.Floats(t, merged, "c.weight"); got[0] != 3 {
		t.Errorf("%v", got)
	}
	if _, err := Open(path, Layers{ldm.UNet: {"a.b"}, ldm.Text: {"d"}}); err == nil || !strings.Contains(err.Error(), "lora_te1_c") {
		t.Errorf("a text encoder's module that the model lacks: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"r": 4, "lora_alpha": 16, "rank_pattern": {"conv": 3}, "alpha_pattern": {"^a.b": 7, "(x|y)$": 1}, "use_rslora": true}`), "a.b")
	f.Add([]byte(`{"unet.lora_alpha": 1, "text_encoder.alpha_pattern": {}}`), "text_model.a")
	f.Add([]byte(`{"alpha": 1e308, "rank_pattern": {"(": 1}}`), "x")
	f.Fuzz(func(t *testing.T, raw []byte, path string) {
		for _, prefix := range []string{"unet.", "text_encoder."} {
			c, err := parseConfig(raw, prefix)
			if err != nil {
				return
			}
			if _, ok := c.scale(path, 4); ok && c.alpha == nil && len(c.alphas) == 0 {
				t.Error("a scale that nothing says")
			}
			c.scale(path, 0)
		}
	})
}
