package lora

import (
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
)

// goldenModules are the layers of the UNet that testdata/make_golden.py adapts.
func goldenModules(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/modules.txt")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

func maxDifference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i])-float64(b[i])))
	}
	return worst
}

// TestDeltaAsPEFT reads the same adapter in three namings, as diffusers saved
// it, and compares each module's change with peft's.
func TestDeltaAsPEFT(t *testing.T) {
	known := goldenModules(t)
	want, err := weights.Open("testdata/delta.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for _, c := range []struct {
		file         string
		naming       Naming
		missingAlpha int
		textEncoder  []string
	}{
		{"kohya", Kohya, 0, []string{"lora_te1_text_model_encoder_layers_0_self_attn_q_proj"}},
		{"peft", PEFT, 57, []string{"text_encoder.text_model.encoder.layers.0.self_attn.q_proj"}},
		{"legacy", DiffusersLegacy, 57, nil},
	} {
		modules, report, err := Read("testdata/"+c.file+".safetensors", known)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		if len(modules) != 57 || report.MissingAlpha != c.missingAlpha ||
			!slices.Equal(report.Namings, []Naming{c.naming}) || !slices.Equal(report.TextEncoder, c.textEncoder) {
			t.Errorf("%s: %d modules, report %v %v %d", c.file, len(modules), report.Namings, report.TextEncoder, report.MissingAlpha)
		}
		if !slices.IsSortedFunc(modules, func(a, b Module) int {
			return slices.Index(known, a.Path) - slices.Index(known, b.Path)
		}) {
			t.Errorf("%s: modules are not in the order of known", c.file)
		}
		checked, kernels := 0, 0
		for _, m := range modules {
			if strings.HasPrefix(m.Path, "up_blocks") {
				continue
			}
			tensor, err := want.Tensor(m.Path)
			if err != nil {
				t.Fatal(err)
			}
			values, err := tensor.Float32()
			if err != nil {
				t.Fatal(err)
			}
			shape, got, err := Delta(m)
			if err != nil || !slices.Equal(shape, tensor.Shape) {
				t.Errorf("%s: %s: shape %v (%v), want %v", c.file, m.Path, shape, err, tensor.Shape)
				continue
			}
			if d := maxDifference(got, values); d > 2e-5 {
				t.Errorf("%s: %s: differs by %g", c.file, m.Path, d)
			}
			if err := Merge(values, tensor.Shape, withAlpha(m, -m.Alpha)); err != nil || maxDifference(values, make([]float32, len(values))) > 2e-5 {
				t.Errorf("%s: %s: merging the negative leaves %v (%v)", c.file, m.Path, maxDifference(values, make([]float32, len(values))), err)
			}
			checked++
			if len(shape) == 4 && shape[2] == 3 {
				kernels++
			}
		}
		if checked != len(want.Names()) || kernels < 4 {
			t.Errorf("%s: compared %d modules (%d with a 3×3 kernel), want %d", c.file, checked, kernels, len(want.Names()))
		}
	}
}

func withAlpha(m Module, alpha float64) Module {
	m.Alpha = alpha
	return m
}

// TestWritesDiffusersNames writes an adapter and gets the tensor names that
// diffusers' own conversion to kohya gave.
func TestWritesDiffusersNames(t *testing.T) {
	known := goldenModules(t)
	modules, _, err := Read("testdata/peft.safetensors", known)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/lora.safetensors"
	if err := Write(path, modules, Diffusers, nil, weights.F32, nil); err != nil {
		t.Fatal(err)
	}
	ours, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := weights.Open("testdata/kohya.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	var want []string
	for _, name := range theirs.Names() {
		if !strings.HasPrefix(name, "lora_te") {
			want = append(want, name)
		}
	}
	if !reflect.DeepEqual(ours.Names(), want) {
		t.Fatalf("names differ: %d, want %d", len(ours.Names()), len(want))
	}
	for _, name := range want {
		a, err := ours.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := theirs.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		// conv1 was trained with another alpha, which Write folds into up.
		same := string(a.Data) == string(b.Data) || strings.Contains(name, "_conv1.") && !strings.HasSuffix(name, "lora_down.weight")
		if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || !same {
			t.Errorf("%s: %s%v differs from diffusers' %s%v", name, a.DType, a.Shape, b.DType, b.Shape)
		}
	}
}

// TestMergedAsFuseLora merges the same adapter in three namings as diffusers' fuse_lora does, to f32 rounding.
func TestMergedAsFuseLora(t *testing.T) {
	golden, err := weights.Open("testdata/fused.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	base := memory{}
	for _, name := range golden.Names() {
		if plain, ok := strings.CutPrefix(name, "base."); ok {
			x, err := golden.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			x.Name = plain
			base[plain] = x
		}
	}
	for _, file := range []string{"kohya", "peft", "legacy"} {
		all, _, err := Read("testdata/"+file+".safetensors", goldenModules(t))
		if err != nil {
			t.Fatal(err)
		}
		modules := slices.DeleteFunc(all, func(m Module) bool { return strings.HasPrefix(m.Path, "up_blocks") })
		merged, err := Merged(base, modules, 0.7, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(modules) != len(base) || len(modules) < 20 {
			t.Fatalf("%d modules, %d layers", len(modules), len(base))
		}
		for name := range base {
			got, want := weightstest.Floats(t, merged, name), weightstest.Floats(t, golden, "fused."+name)
			for i := range got {
				if d := math.Abs(float64(got[i]) - float64(want[i])); d > 1e-6*(1+math.Abs(float64(want[i]))) {
					t.Fatalf("%s: %s[%d] is %g, want %g", file, name, i, got[i], want[i])
				}
			}
		}
	}
	if _, err := Merged(memory{}, []Module{{Path: "x", Rank: 1, Alpha: 1, Down: Matrix{[]int{1, 1}, []float32{1}}, Up: Matrix{[]int{1, 1}, []float32{1}}}}, 1, ""); err == nil || !strings.Contains(err.Error(), "module x") {
		t.Errorf("a module without a layer: %v", err)
	}
}

type memory map[string]weights.Tensor

func (m memory) Names() (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (m memory) Tensor(name string) (weights.Tensor, error) { return m[name], nil }
func (m memory) Close() error                               { return nil }
