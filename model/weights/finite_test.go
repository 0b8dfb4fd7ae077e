package weights

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// Of all bit patterns of the small types, those are found that decode to infinity or NaN, at every place of eight bytes.
func TestNotFinite(t *testing.T) {
	for _, d := range []DType{F8E5M2, F8E4M3, F16, BF16, F32, F64} {
		for pattern := range 1 << 16 {
			for place := range 2 {
				n := 5 + place // of elements: not a multiple of eight bytes
				data := make([]byte, n*d.Size())
				at := (pattern + place) % n
				top := data[at*d.Size() : (at+1)*d.Size()] // the upper bits hold sign and exponent
				top[len(top)-1] = byte(pattern >> 8)
				if len(top) > 1 {
					top[len(top)-2] = byte(pattern)
				}
				var v float64
				if d == F64 {
					v = math.Float64frombits(binary.LittleEndian.Uint64(top)) // decoded, it may be too large for float32
				} else if decoded, err := decode(top, d); err != nil {
					t.Fatal(err)
				} else {
					v = float64(decoded[0])
				}
				want := -1
				if v-v != 0 {
					want = at
				}
				if got := notFinite(data, d); got != want {
					t.Fatalf("%s %#x at %d of %d: found %d, want %d", d, pattern, at, n, got, want)
				}
			}
		}
	}
	if got := notFinite([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, I64); got != -1 {
		t.Errorf("a whole number: %d", got)
	}
}

// Save with Finite names the tensor and the element, in a later piece too, and leaves no file.
func TestSaveRefusesNotFinite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	v := make([]float32, pieceBytes/4+10)
	v[pieceBytes/4+3] = float32(math.Inf(-1))
	x := FromFloat32("late", []int{len(v)}, v, F32)
	err := Save(path, []Tensor{FromFloat32("good", []int{1}, []float32{1}, F16), x}, Options{Finite: true})
	if err == nil || !strings.Contains(err.Error(), "tensor late: element 4194307 is not a finite number") {
		t.Errorf("%v", err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a file was left")
	}
	if err := Save(path, []Tensor{x}, Options{}); err != nil {
		t.Error(err)
	}
}

func BenchmarkNotFinite(b *testing.B) {
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(i*7) & 0x7b
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if notFinite(data, F16) >= 0 {
			b.Fatal("found")
		}
	}
}
