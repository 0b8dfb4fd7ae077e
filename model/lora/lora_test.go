package lora

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fewstep/model/ldm"
	"fewstep/model/weights"
)

func matrix(r *rand.Rand, shape ...int) Matrix {
	n := 1
	for _, d := range shape {
		n *= d
	}
	m := Matrix{Shape: shape, Data: make([]float32, n)}
	for i := range m.Data {
		m.Data[i] = float32(r.IntN(64)-32) / 16 // exact in F16
	}
	return m
}

func sample() ([]Module, []string) {
	r := rand.New(rand.NewPCG(1, 2))
	modules := []Module{
		{Path: "conv_in", Rank: 1, Alpha: 8, Down: matrix(r, 1, 4, 3, 3), Up: matrix(r, 6, 1, 1, 1)},
		{Path: "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0", Rank: 4, Alpha: 8, Down: matrix(r, 4, 5), Up: matrix(r, 3, 4)},
		{Path: "mid_block.resnets.0.time_emb_proj", Rank: 2, Alpha: 8, Down: matrix(r, 2, 7), Up: matrix(r, 2, 2)},
	}
	known := []string{"conv_out"}
	for _, m := range modules {
		known = append(known, m.Path)
	}
	return modules, known
}

func TestRoundTripKohya(t *testing.T) {
	modules, known := sample()
	for _, dtype := range []weights.DType{"", weights.F16, weights.BF16, weights.F32} {
		path := filepath.Join(t.TempDir(), "lora.safetensors")
		if err := Write(path, modules, Diffusers, nil, dtype, map[string]string{"k": "v"}); err != nil {
			t.Fatal(err)
		}
		got, report, err := Read(path, known)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, modules) {
			t.Errorf("%s: read %+v, want %+v", dtype, got, modules)
		}
		if report.MissingAlpha != 0 || report.TextEncoder != nil || !slices.Equal(report.Namings, []Naming{Kohya}) || report.Metadata["k"] != "v" {
			t.Errorf("%s: report %+v", dtype, report)
		}
	}
	path := filepath.Join(t.TempDir(), "lora.safetensors")
	if err := Write(path, modules, Diffusers, nil, "", nil); err != nil {
		t.Fatal(err)
	}
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	alpha, err := f.Tensor("lora_unet_conv_in.alpha")
	if err != nil || alpha.DType != weights.F16 || len(alpha.Shape) != 0 {
		t.Errorf("alpha is %s%v (%v), want an F16 scalar", alpha.DType, alpha.Shape, err)
	}
}

// TestWriteUnifiesAlpha wants one alpha in the file and the changes as before.
func TestWriteUnifiesAlpha(t *testing.T) {
	modules, known := sample()
	modules[0].Alpha, modules[1].Alpha, modules[2].Alpha = 4, 0.1, 0.1
	path := filepath.Join(t.TempDir(), "lora.safetensors")
	if err := Write(path, modules, Diffusers, nil, "", nil); err != nil {
		t.Fatal(err)
	}
	got, _, err := Read(path, known)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range got {
		if m.Alpha != float64(float32(0.1)) { // beyond F16, so kept as F32
			t.Errorf("%s: alpha %g, want 0.1", m.Path, m.Alpha)
		}
		_, before, err1 := Delta(modules[i])
		_, after, err2 := Delta(m)
		if d := maxDifference(before, after); err1 != nil || err2 != nil || d > 0.02 {
			t.Errorf("%s: change differs by %g (%v, %v)", m.Path, d, err1, err2)
		}
	}
}

// TestReadNamings spells one adapter in every accepted way.
func TestReadNamings(t *testing.T) {
	modules, known := sample()
	for _, c := range []struct {
		name  string
		spell func(path string) (down, up, alpha string)
	}{
		{"kohya", func(p string) (string, string, string) {
			p = "lora_unet_" + strings.ReplaceAll(p, ".", "_")
			return p + ".lora_down.weight", p + ".lora_up.weight", p + ".alpha"
		}},
		{"kohya over LDM blocks", func(p string) (string, string, string) {
			p = "lora_unet_" + strings.ReplaceAll(map[string]string{
				"conv_in": "input_blocks.0.0",
				"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0": "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0",
				"mid_block.resnets.0.time_emb_proj":                              "middle_block.0.emb_layers.1",
			}[p], ".", "_")
			return p + ".lora_down.weight", p + ".lora_up.weight", p + ".alpha"
		}},
		{"diffusers", func(p string) (string, string, string) {
			return "unet." + p + ".lora.down.weight", "unet." + p + ".lora.up.weight", "unet." + p + ".alpha"
		}},
		{"diffusers, linear layer", func(p string) (string, string, string) {
			return "unet." + p + ".lora_linear_layer.down.weight", "unet." + p + ".lora_linear_layer.up.weight", "unet." + p + ".alpha"
		}},
		{"peft", func(p string) (string, string, string) {
			return "unet." + p + ".lora_A.weight", "unet." + p + ".lora_B.weight", "unet." + p + ".alpha"
		}},
		{"peft, adapter name", func(p string) (string, string, string) {
			return "unet." + p + ".lora_A.default.weight", "unet." + p + ".lora_B.default.weight", "unet." + p + ".alpha"
		}},
		{"peft, model prefix", func(p string) (string, string, string) {
			return "base_model.model." + p + ".lora_A.weight", "base_model.model." + p + ".lora_B.weight", "base_model.model." + p + ".alpha"
		}},
		{"no prefix", func(p string) (string, string, string) {
			return p + ".lora_A.weight", p + ".lora_B.weight", p + ".alpha"
		}},
	} {
		for _, hasAlpha := range []bool{true, false} {
			var tensors []weights.Tensor
			want := slices.Clone(modules)
			for i, m := range modules {
				down, up, alpha := c.spell(m.Path)
				tensors = append(tensors,
					weights.FromFloat32(down, m.Down.Shape, m.Down.Data, weights.F32),
					weights.FromFloat32(up, m.Up.Shape, m.Up.Data, weights.BF16))
				want[i].Alpha = float64(m.Rank)
				if hasAlpha {
					tensors = append(tensors, weights.FromFloat32(alpha, []int{1}, []float32{float32(m.Alpha)}, weights.F64))
					want[i].Alpha = float64(float32(m.Alpha))
				}
			}
			path := filepath.Join(t.TempDir(), "lora.safetensors")
			if err := weights.Write(path, tensors, nil); err != nil {
				t.Fatal(err)
			}
			// LDM names count the resnets of the down blocks.
			got, report, err := Read(path, append(known, "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1", "down_blocks.1.resnets.0.conv1"))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: read %+v (%v), want %+v", c.name, got, err, want)
			}
			if missing := report.MissingAlpha; (missing == 0) != hasAlpha || (missing == len(modules)) == hasAlpha {
				t.Errorf("%s: %d modules without alpha", c.name, missing)
			}
		}
	}
}

func TestReadRefuses(t *testing.T) {
	f := func(name string, shape ...int) weights.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return weights.FromFloat32(name, shape, slices.Repeat([]float32{1}, n), weights.F32)
	}
	nan := f("unet.a.b.lora.down.weight", 1, 2)
	copy(nan.Data[4:], []byte{0, 0, 0xc0, 0x7f})
	for _, c := range []struct {
		name    string
		tensors []weights.Tensor
		want    string
	}{
		{"unknown module", []weights.Tensor{f("lora_unet_x_y.lora_down.weight", 1, 2)}, "module x_y (tensor lora_unet_x_y.lora_down.weight): the model has no such module"},
		{"unknown dotted module", []weights.Tensor{f("unet.x.y.lora.up.weight", 1, 2)}, "module x.y"},
		{"no up", []weights.Tensor{f("lora_unet_a_b.lora_down.weight", 1, 2)}, "module a.b: it has lora_unet_a_b.lora_down.weight but no up"},
		{"no down", []weights.Tensor{f("unet.a.b.lora_B.weight", 1, 2)}, "but no down"},
		{"alpha alone", []weights.Tensor{f("lora_unet_a_b.alpha")}, "module a.b: it has only"},
		{"ranks differ", []weights.Tensor{f("unet.a.b.lora_A.weight", 1, 2), f("unet.a.b.lora_B.weight", 3, 2)}, "module a.b: down has the shape [1 2] and up [3 2]"},
		{"kernel in up", []weights.Tensor{f("unet.a.b.lora_A.weight", 1, 2, 3, 3), f("unet.a.b.lora_B.weight", 3, 1, 3, 3)}, "1×1"},
		{"one of them a convolution", []weights.Tensor{f("unet.a.b.lora_A.weight", 1, 2, 3, 3), f("unet.a.b.lora_B.weight", 3, 1)}, "module a.b"},
		{"scalar down", []weights.Tensor{f("unet.a.b.lora_A.weight"), f("unet.a.b.lora_B.weight", 3, 1)}, "module a.b"},
		{"rank 0", []weights.Tensor{f("unet.a.b.lora_A.weight", 0, 2), f("unet.a.b.lora_B.weight", 3, 0)}, "module a.b"},
		{"alpha vector", []weights.Tensor{f("unet.a.b.lora_A.weight", 1, 2), f("unet.a.b.lora_B.weight", 3, 1), f("unet.a.b.alpha", 2)}, "single value"},
		{"alpha 0", []weights.Tensor{f("unet.a.b.lora_A.weight", 1, 2), f("unet.a.b.lora_B.weight", 3, 1),
			weights.FromFloat32("unet.a.b.alpha", []int{}, []float32{0}, weights.F32)}, "alpha is 0"},
		{"not finite", []weights.Tensor{nan, f("unet.a.b.lora.up.weight", 3, 1)}, "element 1 is not a finite number"},
		{"down twice", []weights.Tensor{f("unet.a.b.lora.down.weight", 1, 2), f("unet.a.b.lora_A.weight", 1, 2)}, "module a.b: both"},
		{"DoRA alone", []weights.Tensor{f("lora_unet_a_b.dora_scale", 1)}, "module a.b: it has only lora_unet_a_b.dora_scale"},
		{"a plain model", []weights.Tensor{f("a.b.weight", 1, 2)}, "it has no modules of a LoRA"},
		{"IA3", []weights.Tensor{f("lora_unet_a_b.weight", 2), f("lora_unet_a_b.on_input"), f("lora_unet_a_c.lora_down.weight", 1, 2), f("lora_unet_a_c.lora_up.weight", 2, 1)}, "tensor lora_unet_a_b.on_input: it changes the layer a.b in a way that is not known"},
		{"OFT", []weights.Tensor{f("lora_unet_a_b.oft_blocks", 1, 2, 2)}, "tensor lora_unet_a_b.oft_blocks: it changes the layer a.b"},
		{"two adapters", []weights.Tensor{f("a.b.lora_A.one.weight", 1, 2), f("a.b.lora_A.two.weight", 1, 2)}, "module a.b: it holds the adapters one, two"},
		{"LoHa without a factor", []weights.Tensor{f("lora_unet_a_b.hada_w1_a", 2, 1), f("lora_unet_a_b.hada_w1_b", 1, 2), f("lora_unet_a_b.hada_w2_a", 2, 1)}, "module a.b: it has no hada_w2_b"},
		{"LoHa of two sizes", []weights.Tensor{f("lora_unet_a_b.hada_w1_a", 2, 1), f("lora_unet_a_b.hada_w1_b", 1, 2), f("lora_unet_a_b.hada_w2_a", 2, 1), f("lora_unet_a_b.hada_w2_b", 1, 3)}, "module a.b: its two products are of 2×2 and 2×3"},
		{"LoKr that does not fit", []weights.Tensor{f("lora_unet_a_b.lokr_w1", 2, 1), f("lora_unet_a_b.lokr_w2_a", 2, 1), f("lora_unet_a_b.lokr_w2_b", 2, 2)}, "module a.b: factors of 2×1 and 2×2"},
		{"middle that does not fit", []weights.Tensor{f("lora_unet_a_b.lora_down.weight", 2, 3, 1, 1), f("lora_unet_a_b.lora_up.weight", 4, 2, 1, 1), f("lora_unet_a_b.lora_mid.weight", 3, 2, 3, 3)}, "module a.b: a core of [3 2 3 3]"},
		{"text encoder alone", []weights.Tensor{f("lora_te1_x.lora_down.weight", 1, 2)}, "no UNet modules"},
		{"complex", []weights.Tensor{{Name: "unet.a.b.lora_A.weight", DType: weights.C64, Shape: []int{1, 1}, Data: make([]byte, 8)}, f("unet.a.b.lora_B.weight", 3, 1)}, "C64 cannot be read"},
	} {
		path := filepath.Join(t.TempDir(), "lora.safetensors")
		if err := weights.Write(path, c.tensors, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err := Read(path, []string{"a.b", "a.c"})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want the path and %q", c.name, err, c.want)
		}
	}
	path := filepath.Join(t.TempDir(), "lora.safetensors")
	if err := weights.Write(path, []weights.Tensor{f("a.lora_A.weight", 1, 2)}, map[string]string{"lora_adapter_metadata": "{"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(path, []string{"a"}); err == nil || !strings.Contains(err.Error(), "lora_adapter_metadata") {
		t.Errorf("broken adapter metadata: %v", err)
	}
	if err := weights.Write(path, []weights.Tensor{f("a.lora_A.weight", 1, 2)}, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(path, []string{"a.b_c", "a_b.c"}); err == nil || !strings.Contains(err.Error(), "same kohya name") {
		t.Errorf("ambiguous model: %v", err)
	}
}

func TestAdapterMetadata(t *testing.T) {
	one := weights.FromFloat32("a.b.lora_A.weight", []int{4, 1}, []float32{1, 1, 1, 1}, weights.F32)
	two := weights.FromFloat32("a.b.lora_B.weight", []int{1, 4}, []float32{1, 1, 1, 1}, weights.F32)
	for text, want := range map[string]float64{
		`{}`:                                    4,
		`{"unet.lora_alpha":6}`:                 6,
		`{"lora_alpha":6}`:                      6,
		`{"lora_alpha":6,"unet.lora_alpha":7}`:  7,
		`{"text_encoder.lora_alpha":6}`:         4,
		`{"lora_alpha":6,"use_rslora":true}`:    12,
		`{"lora_alpha":6,"alpha_pattern":null}`: 6,
		`{"lora_alpha":6,"alpha_pattern":{"a":9,"x.b":8,"b":2,"a.b":3}}`: 2,
		`{"lora_alpha":6,"alpha_pattern":{"a.b":3,"b":2}}`:               3,
		`{"lora_alpha":6,"alpha_pattern":{"^a.b":3}}`:                    3,
		`{"lora_alpha":6,"alpha_pattern":{"c|b":3}}`:                     3,
		`{"lora_alpha":6,"alpha_pattern":{".b":3}}`:                      6,
		`{"lora_alpha":6,"alpha_pattern":{"(a|c).b":3}}`:                 3,
	} {
		path := filepath.Join(t.TempDir(), "lora.safetensors")
		if err := weights.Write(path, []weights.Tensor{one, two}, map[string]string{"lora_adapter_metadata": text}); err != nil {
			t.Fatal(err)
		}
		modules, _, err := Read(path, []string{"a.b"})
		if err != nil || modules[0].Alpha != want {
			t.Errorf("%s: alpha %+v (%v), want %g", text, modules, err, want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	good := func() Module {
		r := rand.New(rand.NewPCG(1, 2))
		return Module{Path: "a.b", Rank: 2, Alpha: 1, Down: matrix(r, 2, 3), Up: matrix(r, 4, 2)}
	}
	for _, c := range []struct {
		name   string
		change func(m *Module)
		want   string
	}{
		{"rank", func(m *Module) { m.Rank = 3 }, "rank 3"},
		{"alpha", func(m *Module) { m.Alpha = 0 }, "alpha is 0"},
		{"data", func(m *Module) { m.Up.Data = m.Up.Data[1:] }, "up has 7 values"},
		{"range", func(m *Module) { m.Down.Data[2] = 1e6 }, "lora_unet_a_b.lora_down.weight: element 2 is 1e+06, beyond the range of F16"},
	} {
		m := good()
		c.change(&m)
		path := filepath.Join(t.TempDir(), "lora.safetensors")
		err := Write(path, []Module{m}, Diffusers, nil, "", nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want the path and %q", c.name, err, c.want)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: left a file", c.name)
		}
	}
	path := filepath.Join(t.TempDir(), "lora.safetensors")
	if err := Write(path, []Module{good(), good()}, Diffusers, nil, "", nil); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a module twice: %v", err)
	}
	if err := Write(path, nil, Diffusers, nil, "", nil); err == nil {
		t.Error("wrote an empty LoRA")
	}
}

func TestMergeShapes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	linear := Module{Path: "a", Rank: 2, Alpha: 1, Down: matrix(r, 2, 3), Up: matrix(r, 4, 2)}
	kernel := Module{Path: "c", Rank: 2, Alpha: 1, Down: matrix(r, 2, 3, 3, 3), Up: matrix(r, 4, 2, 1, 1)}
	for _, c := range []struct {
		m     Module
		shape []int
		fits  bool
	}{
		{linear, []int{4, 3}, true}, {linear, []int{4, 3, 1, 1}, true}, {linear, []int{3, 4}, false}, {linear, []int{4, 3, 3, 3}, false},
		{kernel, []int{4, 3, 3, 3}, true}, {kernel, []int{4, 27}, false}, {kernel, []int{4, 3, 9, 1}, false},
	} {
		n := 1
		for _, d := range c.shape {
			n *= d
		}
		if err := Merge(make([]float32, n), c.shape, c.m); (err == nil) != c.fits || err != nil && !strings.Contains(err.Error(), "module "+c.m.Path) {
			t.Errorf("%v into %v: %v", c.m.WeightShape(), c.shape, err)
		}
	}
	if err := Merge(make([]float32, 11), []int{4, 3}, linear); err == nil {
		t.Error("merged into a short weight")
	}
	err := CheckTargets([]Module{linear, kernel}, map[string][]int{"a": {4, 4}})
	if err == nil || !strings.Contains(fmt.Sprint(err), "module a") || !strings.Contains(fmt.Sprint(err), "module c: the model has no such layer") {
		t.Errorf("CheckTargets: %v", err)
	}
	if err := CheckTargets([]Module{linear}, map[string][]int{"a": {4, 3}}); err != nil {
		t.Errorf("CheckTargets: %v", err)
	}
}

// FuzzParseKey wants no panic, and module and part for what it accepts.
func FuzzParseKey(f *testing.F) {
	for _, end := range []string{".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".lora.down.weight", "_lora.up.weight", ".lora_linear_layer.down.weight",
		".lora_A.weight", ".lora_B.my-style.weight", ".lora_B.bias", ".lora_magnitude_vector", ".lora_magnitude_vector.x.weight", ".dora_scale", ".alpha", ".scalar",
		".hada_w1_a", ".hada_t2.default", ".lokr_w2_b", ".lokr_t2", ".diff", ".diff_b", ".w_norm", ".b_norm"} {
		f.Add("unet.a.b" + end)
		f.Add("lora_unet_a_b" + end)
	}
	f.Add("lora_te1_x.dora_scale")
	f.Add(".alpha")
	f.Fuzz(func(t *testing.T, name string) {
		k, ok := parseKey(name)
		if ok && (k.module == "" || k.part == "") {
			t.Errorf("%q: %+v", name, k)
		}
		resolve, err := resolverOf(Layers{ldm.UNet: {"a.b", "conv_in"}, ldm.Text: {"text_model.encoder.layers.0.self_attn.q_proj"}})
		if err != nil {
			t.Fatal(err)
		}
		if to, ok := resolve.find(k.module); ok && !strings.HasSuffix(flat(k.module), flat(to.path)) && to.component == ldm.UNet {
			t.Errorf("%q is taken for %+v", k.module, to)
		}
	})
}

// FuzzRead reads whole files: an error that names the file, or valid modules that can be written and read again.
func FuzzRead(f *testing.F) {
	modules, known := sample()
	dir := f.TempDir()
	for i, dtype := range []weights.DType{weights.F16, weights.F32} {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := Write(path, modules, Diffusers, nil, dtype, map[string]string{"lora_adapter_metadata": `{"unet.lora_alpha": 3, "unet.use_rslora": true}`}); err != nil {
			f.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
		f.Add([]byte(strings.NewReplacer("lora_unet_conv_in.lora_down", "unet.conv_in.lora_AAAAAAA").Replace(string(content))))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, content, 0o666); err != nil {
			t.Fatal(err)
		}
		if src, err := weights.Open(path); err == nil {
			Describe(src)
			src.Close()
		}
		got, _, err := Read(path, known)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		for _, m := range got {
			if err := m.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		again := filepath.Join(t.TempDir(), "y.safetensors")
		if err := Write(again, got, Diffusers, nil, weights.F32, nil); err != nil {
			return // an alpha so far from the others that up overflows
		}
		if twice, _, err := Read(again, known); err != nil || len(twice) != len(got) {
			t.Errorf("%d of %d modules again: %v", len(twice), len(got), err)
		}
	})
}
