package weights

import (
	"bytes"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Views of a tensor in memory, in a file and made when asked for are the same.
func TestViews(t *testing.T) {
	values := make([]float32, 24)
	for i := range values {
		values[i] = float32(i)
	}
	for _, dtype := range []DType{F16, F32, F64} {
		plain := FromFloat32("x", []int{6, 4}, values, dtype)
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := Write(path, []Tensor{plain}, nil); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		mapped, err := f.Tensor("x")
		if err != nil {
			t.Fatal(err)
		}
		filled := plain
		filled.Data, filled.Fill = nil, func() ([]byte, error) { return plain.Data, nil }
		for what, x := range map[string]Tensor{"memory": plain, "file": mapped, "filled": filled} {
			check := func(name string, got Tensor, err error, shape []int, want []float32) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s %s: %v", what, name, err)
				}
				v, err := got.Float32()
				if err != nil || !slices.Equal(v, want) || !slices.Equal(got.Shape, shape) || got.DType != dtype {
					t.Errorf("%s %s: %s%v %v (%v), want %v %v", what, name, got.DType, got.Shape, v, err, shape, want)
				}
			}
			y, err := x.Reshape([]int{6, 4, 1, 1})
			check("reshaped", y, err, []int{6, 4, 1, 1}, values)
			y, err = x.Rows(2, 4)
			check("rows", y, err, []int{2, 4}, values[8:16])
			turned := make([]float32, 24)
			for i := range 24 {
				turned[i] = float32(i%6*4 + i/6)
			}
			y, err = x.Transposed()
			check("transposed", y, err, []int{4, 6}, turned)
			top, err := x.Rows(0, 3)
			if err != nil {
				t.Fatal(err)
			}
			bottom, err := x.Rows(3, 6)
			if err != nil {
				t.Fatal(err)
			}
			y, err = Stacked("s", top, bottom)
			check("stacked", y, err, []int{6, 4}, values)
			if x.As("").DType != dtype || x.As(BF16).DType != BF16 {
				t.Errorf("%s: converted to %s and %s", what, x.As("").DType, x.As(BF16).DType)
			}
			if v, err := x.As(BF16).Float32(); err != nil || !slices.Equal(v, values) {
				t.Errorf("%s: as BF16 %v, %v", what, v, err)
			}
		}
		part, err := mapped.Rows(1, 2)
		if err != nil || &part.Data[0] != &mapped.Data[4*dtype.Size()] {
			t.Errorf("rows of a file were copied (%v)", err)
		}
	}
}

// Conversion in pieces gives what conversion as a whole does, and names the element that does not fit.
func TestConvertInPieces(t *testing.T) {
	v := make([]float32, 600_000)
	for i := range v {
		v[i] = float32(i%2048) / 8
	}
	x := FromFloat32("x", []int{600, 1000}, v, F32)
	got, err := x.As(F16).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := Encode(v, F16); !bytes.Equal(got, want) {
		t.Error("pieces do not fit together")
	}
	v[599_999] = 1e9
	if _, err := FromFloat32("x", []int{600, 1000}, v, F32).As(F16).Bytes(); err == nil || !strings.Contains(err.Error(), "element 599999 is 1e+09") {
		t.Errorf("%v", err)
	}
}

func TestViewsRefuse(t *testing.T) {
	x := FromFloat32("x", []int{2, 3}, make([]float32, 6), F32)
	other := FromFloat32("y", []int{2, 2}, make([]float32, 4), F32)
	for what, f := range map[string]func() error{
		"reshape":   func() error { _, err := x.Reshape([]int{2, 2}); return err },
		"rows":      func() error { _, err := x.Rows(1, 3); return err },
		"backwards": func() error { _, err := x.Rows(1, 0); return err },
		"transpose": func() error { _, err := FromFloat32("x", []int{6}, make([]float32, 6), F32).Transposed(); return err },
		"stack":     func() error { _, err := Stacked("s", x, other); return err },
		"types":     func() error { _, err := Stacked("s", x, x.As(F16)); return err },
		"nothing":   func() error { _, err := Stacked("s"); return err },
		"finite": func() error {
			_, err := FromFloat32("x", []int{1}, []float32{float32(math.NaN())}, F32).Finite()
			return err
		},
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "tensor ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Collect([]Tensor{x}).Tensor("z"); err == nil || !strings.Contains(err.Error(), "no tensor z") {
		t.Errorf("a collection: %v", err)
	}
	whole := Tensor{Name: "i", DType: I64, Shape: []int{1}, Data: make([]byte, 8)}
	if whole.As(F16).DType != I64 {
		t.Error("whole numbers were converted")
	}
}

// Save puts the hash of the data it writes into the header, in one pass, and tells how far it is.
func TestSave(t *testing.T) {
	tensors := []Tensor{FromFloat32("a", []int{3}, []float32{1, 2, 3}, F32), FromFloat32("b", []int{2}, []float32{4, 5}, F16)}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	var told []int64
	given := map[string]string{"k": "v", KeyHash: "0xold"}
	if err := Save(path, tensors, Options{Metadata: given, Hash: true, Progress: func(n int64) { told = append(told, n) }}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := DataHash(tensors)
	if err != nil {
		t.Fatal(err)
	}
	if f.Metadata()[KeyHash] != want || f.Metadata()["k"] != "v" || given[KeyHash] != "0xold" {
		t.Errorf("metadata %v, want the hash %s; the caller's is %v", f.Metadata(), want, given)
	}
	if !slices.Equal(told, []int64{12, 16}) {
		t.Errorf("progress %v", told)
	}
	x, err := f.Tensor("a")
	if err != nil || !bytes.Equal(x.Data, tensors[0].Data) {
		t.Errorf("%v, %v", x.Data, err)
	}
	broken := errors.New("broken")
	bad := Tensor{Name: "c", DType: U8, Shape: []int{1}, Fill: func() ([]byte, error) { return nil, broken }}
	if err := Save(path, append(tensors, bad), Options{Hash: true}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := Open(path); err != nil {
		t.Errorf("the old file is gone: %v", err)
	}
}

func BenchmarkConvert(b *testing.B) {
	data, err := Encode(make([]float32, 32<<20), F16)
	if err != nil {
		b.Fatal(err)
	}
	x := Tensor{Name: "x", DType: F16, Shape: []int{32 << 20}, Data: data}
	for _, to := range []DType{BF16, F32} {
		b.Run(string(to), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := x.As(to).Bytes(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
