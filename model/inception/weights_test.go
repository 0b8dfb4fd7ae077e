package inception

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/nn"
	"fewstep/model/weights"
)

func stateDict(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Both formats of torch.save give the same tensors.
func TestStateDicts(t *testing.T) {
	for _, name := range []string{"new.pth", "old.pth"} {
		p, err := readPTH(stateDict(t, name))
		if err != nil {
			t.Fatal(name, err)
		}
		shape, values, err := p.float32("conv.weight")
		if err != nil || !slices.Equal(shape, []int{2, 3, 2, 2}) || len(values) != 24 || values[0] != -1 || values[23] != 23.0/8-1 {
			t.Errorf("%s: conv.weight %v %v, %v", name, shape, values, err)
		}
		if shape, values, err = p.float32("bn.bias"); err != nil || !slices.Equal(shape, []int{6}) || values[0] != 2 {
			t.Errorf("%s: bn.bias %v %v, %v", name, shape, values, err)
		}
		if _, values, err = p.float32("own"); err != nil || !slices.Equal(values, []float32{3}) {
			t.Errorf("%s: a parameter is %v, %v", name, values, err)
		}
		for tensor, says := range map[string]string{"turned": "not contiguous", "half": "torch.HalfStorage", "bn.num_batches_tracked": "torch.LongStorage", "none": `no tensor "none"`} {
			if _, _, err := p.float32(tensor); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %s: error %v, want %q in it", name, tensor, err, says)
			}
		}
	}
}

// A pickle that would run code is refused by the name of what it calls.
func TestNoCodeIsRun(t *testing.T) {
	if _, err := readPTH(stateDict(t, "code.pth")); err == nil || !strings.Contains(err.Error(), `calls "builtins.print"`) && !strings.Contains(err.Error(), `calls "__builtin__.print"`) {
		t.Errorf("error %v", err)
	}
}

func TestBrokenStateDicts(t *testing.T) {
	for _, name := range []string{"new.pth", "old.pth"} {
		raw := stateDict(t, name)
		for cut := 0; cut < len(raw); cut += 13 {
			p, err := readPTH(raw[:cut])
			if err == nil {
				if _, _, err = p.float32("conv.weight"); err == nil {
					_, _, err = p.float32("bn.running_var")
				}
			}
			if err == nil && cut < len(raw)-100 {
				t.Fatalf("%s cut at %d of %d bytes was read", name, cut, len(raw))
			}
		}
	}
}

func FuzzStateDict(f *testing.F) {
	for _, name := range []string{"new.pth", "old.pth", "code.pth"} {
		f.Add(stateDict(f, name))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := readPTH(raw)
		if err != nil {
			return
		}
		for name := range p.tensors {
			_, _, _ = p.float32(name)
		}
	})
}

var smallSpecs = []nn.Spec{{Name: "conv.weight", Dims: []int{2, 3, 2, 2}}, {Name: "bn.running_var", Dims: []int{2}}}

// smallFile is a safetensors file with the given variances and metadata.
func smallFile(t *testing.T, variance float32, metadata map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small.safetensors")
	values := make([]float32, 24)
	for i := range values {
		values[i] = float32(i)/8 - 1
	}
	if err := weights.Write(path, []weights.Tensor{
		weights.FromFloat32("conv.weight", []int{2, 3, 2, 2}, values, weights.F32),
		weights.FromFloat32("bn.running_var", []int{2}, []float32{0.5, variance}, weights.F32),
	}, metadata); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestIdentity: weights are what their hashes say, and nothing else is FID.
func TestIdentity(t *testing.T) {
	plain, err := Open(smallFile(t, 2, nil), smallSpecs)
	if err != nil {
		t.Fatal(err)
	}
	pickled, err := Open(filepath.Join("testdata", "old.pth"), smallSpecs)
	if err != nil {
		t.Fatal(err)
	}
	if plain.Content != pickled.Content {
		t.Errorf("the same tensors have the contents %s and %s", plain.Content, pickled.Content)
	}
	for _, w := range []*Weights{plain, pickled} {
		if w.Release.FID || w.Release.Name != "unknown-"+w.Content[:8] || w.Release.Last != Max {
			t.Errorf("%s is taken for %+v", w.Path, w.Release)
		}
	}
	// What scripts/convert_inception.py writes, and the same record on other tensors.
	record := map[string]string{sourceKey: FID.SHA256, contentKey: plain.Content}
	converted, err := Open(smallFile(t, 2, record), smallSpecs)
	if err != nil || !converted.Release.FID {
		t.Errorf("a converted file is %+v, %v", converted, err)
	}
	if _, err := Open(smallFile(t, 3, record), smallSpecs); err == nil || !strings.Contains(err.Error(), "the tensors have changed since the file was converted") {
		t.Errorf("error %v", err)
	}
	other, err := Open(smallFile(t, 2, map[string]string{sourceKey: "0000", contentKey: plain.Content, "inception.last_pool": "average"}), smallSpecs)
	if err != nil || other.Release.FID || other.Release.Last != Average {
		t.Errorf("a file converted from something else is %+v, %v", other, err)
	}
	if _, err := Open(smallFile(t, 2, map[string]string{sourceKey: FID.SHA256}), smallSpecs); err != nil {
		t.Errorf("a record without a content: %v", err)
	}
}

func TestRefusedWeights(t *testing.T) {
	_, negative := Open(smallFile(t, -1, nil), smallSpecs)
	_, nan := Open(smallFile(t, float32(math.NaN()), nil), smallSpecs)
	_, pool := Open(smallFile(t, 2, map[string]string{"inception.last_pool": "middle"}), smallSpecs)
	_, missing := Open(smallFile(t, 2, nil), append(smallSpecs, nn.Spec{Name: "Mixed_7c.x", Dims: []int{1}}))
	_, shape := Open(smallFile(t, 2, nil), []nn.Spec{{Name: "bn.running_var", Dims: []int{3}}})
	_, kind := Open(filepath.Join("testdata", "new.pth"), []nn.Spec{{Name: "half", Dims: []int{1}}})
	_, ending := Open("weights.bin", smallSpecs)
	_, absent := Open("nowhere.pth", smallSpecs)
	for want, err := range map[string]error{
		`tensor "bn.running_var" has the negative variance -1 at element 1`: negative,
		`tensor "bn.running_var" is NaN at element 1`:                       nan,
		`last_pool is "middle"`:                                             pool,
		`tensor "Mixed_7c.x" of shape [1] is missing`:                       missing,
		"has the shape [2], pytorch-fid's Inception network has [3]":        shape,
		"torch.HalfStorage":                                                 kind,
		"give the .pth or .safetensors file":                                ending,
		"nowhere.pth: no such file or directory":                            absent,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	if got, err := Resolve("nsfwjs-inception"); err != nil || got != "/cache/fewstep/models/nsfwjs-inception.safetensors" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Resolve("a/file.pth"); err != nil || got != "a/file.pth" {
		t.Errorf("%q, %v", got, err)
	}
}
