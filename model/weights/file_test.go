package weights

import (
	"path/filepath"
	"reflect"
	"testing"
)

func TestWriteThenOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "model.safetensors")
	values := []float32{1, -2, 0.5, 3.140625, 0, 65504}
	lazy := FromFloat32("lazy", []int{3, 2}, values, BF16)
	data := lazy.Data
	lazy.Data, lazy.Fill = nil, func() ([]byte, error) { return data, nil }
	metadata := map[string]string{"format": "pt", "b": "ü<&>\n"}
	err := Write(path, []Tensor{
		FromFloat32("half", []int{2, 3}, values, F16),
		lazy,
		FromFloat32("full", []int{6}, values, F32),
		FromFloat32("alpha", []int{}, []float32{8}, F16),
		FromFloat32("double", []int{6, 1}, values, F64),
		FromFloat32("empty", []int{0, 4}, nil, F32),
	}, metadata)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Metadata(); !reflect.DeepEqual(got, metadata) {
		t.Errorf("metadata %v, want %v", got, metadata)
	}
	want := []string{"alpha", "double", "empty", "full", "half", "lazy"}
	if got := f.Names(); !reflect.DeepEqual(got, want) {
		t.Errorf("names %v, want %v", got, want)
	}
	for _, name := range []string{"half", "full", "double"} {
		tensor, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tensor.Float32(); err != nil || !reflect.DeepEqual(got, values) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, values)
		}
	}
	alpha, err := f.Tensor("alpha")
	if err != nil || len(alpha.Shape) != 0 || alpha.Elements() != 1 {
		t.Errorf("alpha: shape %v (%v)", alpha.Shape, err)
	}
}
