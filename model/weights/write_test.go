package weights

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWriteRefuses(t *testing.T) {
	one := FromFloat32("w", []int{1}, []float32{1}, F16)
	boom := errors.New("boom")
	for _, c := range []struct {
		name     string
		tensors  []Tensor
		metadata map[string]string
		want     string
	}{
		{"two of a name", []Tensor{one, one}, nil, "tensor w: the name is taken"},
		{"reserved name", []Tensor{FromFloat32("__metadata__", []int{1}, []float32{1}, F16)}, nil, "taken"},
		{"unknown dtype", []Tensor{{Name: "w", DType: "F7", Shape: []int{1}, Data: []byte{0}}}, nil, `unknown dtype "F7"`},
		{"too few values", []Tensor{FromFloat32("w", []int{2}, []float32{1}, F16)}, nil, "2 bytes of data, but F16[2] needs 4"},
		{"no data", []Tensor{{Name: "w", DType: F32, Shape: []int{2}}}, nil, "0 bytes of data"},
		{"negative dimension", []Tensor{{Name: "w", DType: F32, Shape: []int{-1}}}, nil, "negative"},
		{"overflowing shape", []Tensor{{Name: "w", DType: F32, Shape: []int{1 << 62, 4}}}, nil, "too large"},
		{"failing Fill", []Tensor{{Name: "w", DType: F32, Shape: []int{1}, Fill: func() ([]byte, error) { return nil, boom }}}, nil, "tensor w: boom"},
		{"beyond F16", []Tensor{FromFloat32("w", []int{2}, []float32{1, 65520}, F16)}, nil, "element 1 is 65520, beyond the range of F16"},
		{"beyond BF16", []Tensor{FromFloat32("w", []int{1}, []float32{-math.MaxFloat32}, BF16)}, nil, "beyond the range of BF16"},
		{"to integers", []Tensor{FromFloat32("w", []int{1}, []float32{1}, I32)}, nil, "cannot convert"},
		{"name not UTF-8", []Tensor{FromFloat32("\xff", []int{1}, []float32{1}, F16)}, nil, "UTF-8"},
		{"metadata not UTF-8", []Tensor{one}, map[string]string{"k": "\xff"}, `key "k"`},
		{"wrong hash", []Tensor{one}, map[string]string{KeyHash: "0x00"}, "the data has the hash 0x"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "x.safetensors")
		err := Write(path, c.tensors, c.metadata)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want the path and %q", c.name, err, c.want)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left %v behind", c.name, left)
		}
	}
}

func TestHeaderPadding(t *testing.T) {
	for n := range 9 {
		header, err := buildHeader([]Tensor{FromFloat32(strings.Repeat("n", n), []int{1}, []float32{1}, F16)}, nil)
		if err != nil || len(header)%8 != 0 {
			t.Errorf("a name of %d bytes: the data begin at %d (%v), want a multiple of 8", n, len(header), err)
		}
	}
}

func TestEncodeKeepsInfinities(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, d := range []DType{F16, BF16, F32, F64} {
		got, err := FromFloat32("w", []int{3}, []float32{inf, -inf, float32(math.NaN())}, d).Float32()
		if err != nil || got[0] != inf || got[1] != -inf || got[2] == got[2] {
			t.Errorf("%s: %v (%v)", d, got, err)
		}
	}
}

func TestModelSpec(t *testing.T) {
	tensors := []Tensor{
		FromFloat32("b", []int{2}, []float32{1, 2}, F16),
		FromFloat32("a", []int{1}, []float32{3}, F32),
	}
	hash, err := DataHash(tensors)
	if err != nil {
		t.Fatal(err)
	}
	spec := ModelSpec{
		Architecture: "stable-diffusion-xl-v1-base/lora", Implementation: "diffusers", Title: "mini 4-step",
		Width: 64, Height: 64, PredictionType: "v_prediction", Date: time.Date(2024, 2, 29, 1, 2, 3, 0, time.UTC), License: "Apache-2.0",
		DataHash: hash, BaseSHA256: "00ff", Stage: "8-4/lora-cond", ConfigSHA256: "11ee",
		SamplerSteps: 4, Spacing: "trailing", GuidanceScale: 1,
	}
	m, err := spec.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"modelspec.sai_model_spec": "1.0.1", "modelspec.resolution": "64x64", "modelspec.prediction_type": "v",
		"modelspec.date": "2024-02-29T01:02:03Z", "fewstep.sampler.prediction_type": "v_prediction", "fewstep.sampler.steps": "4",
	} {
		if m[key] != want {
			t.Errorf("%s = %q, want %q", key, m[key], want)
		}
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := Write(path, tensors, m); err != nil { // checks the hash
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, ok := ParseModelSpec(f.Metadata()); !ok || !reflect.DeepEqual(got, spec) {
		t.Errorf("read back %+v, want %+v", got, spec)
	}
	if _, ok := ParseModelSpec(nil); ok {
		t.Error("no metadata counts as a model spec")
	}
	if _, err := (ModelSpec{Architecture: "x", Implementation: "y"}).Metadata(); err == nil || !strings.Contains(err.Error(), "title") {
		t.Errorf("without title: %v", err)
	}
}
