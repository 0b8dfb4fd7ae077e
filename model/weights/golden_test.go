package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
)

const pythonFile = "testdata/python_every_dtype.safetensors"

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func sameBits(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// TestReadsPythonFile compares every element with what torch reads.
func TestReadsPythonFile(t *testing.T) {
	var want map[string][]any
	readJSON(t, "testdata/python_values.json", &want)
	f, err := Open(pythonFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, want := f.Metadata(), map[string]string{`made "by"`: "python <&> ü\n"}; !reflect.DeepEqual(got, want) {
		t.Errorf("metadata %q, want %q", got, want)
	}
	if len(f.Names()) != len(want) {
		t.Errorf("%d tensors, want %d", len(f.Names()), len(want))
	}
	for name, values := range want {
		tensor, err := f.Tensor(name)
		if err != nil {
			t.Error(err)
			continue
		}
		got, err := tensor.Float32()
		if err != nil || len(got) != len(values) || tensor.Elements() != len(values) {
			t.Errorf("%s: %d values (%v), want %d", name, len(got), err, len(values))
			continue
		}
		for i, v := range values {
			var w float64
			switch v := v.(type) {
			case float64:
				w = v
			case string:
				if w, err = strconv.ParseFloat(v, 64); err != nil {
					t.Fatal(err)
				}
			}
			if !sameBits(got[i], float32(w)) {
				t.Errorf("%s[%d] = %g, want %g", name, i, got[i], w)
			}
		}
	}
}

// TestWritesAsPython writes what the Python library wrote and gets its bytes.
func TestWritesAsPython(t *testing.T) {
	f, err := Open(pythonFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tensors []Tensor
	for _, name := range f.Names() {
		tensor, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, tensor)
	}
	path := filepath.Join(t.TempDir(), "ours.safetensors")
	if err := Write(path, tensors, f.Metadata()); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(pythonFile)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("our file differs from Python's:\n%q\n%q", got[:min(len(got), 1200)], want[:1200])
	}
	ourHash, err := HashFile(t.Context(), path)
	if theirs, err2 := HashFile(t.Context(), pythonFile); err != nil || err2 != nil || ourHash != theirs || len(ourHash) != 64 {
		t.Errorf("hash %s (%v), want %s (%v)", ourHash, err, theirs, err2)
	}
}

// TestHalfFloatsAsTorch compares rounding with torch's, NaN payloads aside.
func TestHalfFloatsAsTorch(t *testing.T) {
	var golden struct {
		Float32           []uint32
		Float16, BFloat16 []uint16
	}
	readJSON(t, "testdata/halffloat.json", &golden)
	if len(golden.Float32) < 2000 {
		t.Fatalf("only %d golden values", len(golden.Float32))
	}
	for i, b := range golden.Float32 {
		x := math.Float32frombits(b)
		if got, want := f16Bits(x), golden.Float16[i]; got != want && !(x != x && f16Value(got) != f16Value(got) && f16Value(want) != f16Value(want)) {
			t.Errorf("float16 of %g (%#08x) is %#04x, want %#04x", x, b, got, want)
		}
		if got, want := bf16Bits(x), golden.BFloat16[i]; got != want && !(x != x && bf16Value(got) != bf16Value(got) && bf16Value(want) != bf16Value(want)) {
			t.Errorf("bfloat16 of %g (%#08x) is %#04x, want %#04x", x, b, got, want)
		}
	}
}

// TestHalfFloatRounding checks all 65,536 values of both formats: each converts
// back to itself, and the midpoint of neighbours goes to the even one, points
// beside the midpoint to the nearer one.
func TestHalfFloatRounding(t *testing.T) {
	for _, format := range []struct {
		name  string
		bits  func(float32) uint16
		value func(uint16) float32
		inf   uint16
	}{{"F16", f16Bits, f16Value, 0x7c00}, {"BF16", bf16Bits, bf16Value, 0x7f80}} {
		for h := range 1 << 16 {
			h := uint16(h)
			v := format.value(h)
			back := format.bits(v)
			if v != v {
				if b := format.value(back); b == b {
					t.Fatalf("%s: NaN %#04x became %g", format.name, h, b)
				}
				continue
			}
			if back != h {
				t.Fatalf("%s: %#04x (%g) came back as %#04x", format.name, h, v, back)
			}
			if magnitude := h &^ 0x8000; magnitude+1 >= format.inf {
				continue
			}
			next := format.value(h + 1)
			mid := (float64(v) + float64(next)) / 2
			m := float32(mid)
			if float64(m) != mid { // below float32's own precision
				continue
			}
			even := h + h&1
			if got := format.bits(m); got != even {
				t.Fatalf("%s: the midpoint %g of %#04x and its neighbour became %#04x, want %#04x", format.name, m, h, got, even)
			}
			if got := format.bits(math.Nextafter32(m, v)); got != h {
				t.Fatalf("%s: just below the midpoint above %#04x became %#04x", format.name, h, got)
			}
			if got := format.bits(math.Nextafter32(m, next)); got != h+1 {
				t.Fatalf("%s: just beyond the midpoint above %#04x became %#04x", format.name, h, got)
			}
		}
	}
}

func TestEncodeDecodeTable(t *testing.T) {
	for h := range 1 << 16 {
		var data [2]byte
		binary.LittleEndian.PutUint16(data[:], uint16(h))
		got, err := decode(data[:], F16)
		if err != nil || !sameBits(got[0], f16Value(uint16(h))) {
			t.Fatalf("decode(%#04x) = %v (%v)", h, got, err)
		}
	}
}
