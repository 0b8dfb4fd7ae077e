package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// raw builds a file of a header and n data bytes.
func raw(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func openRaw(t testing.TB, content []byte) (*File, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	return f, path, err
}

func entryJSON(name, dtype, shape, offsets string) string {
	return fmt.Sprintf(`"%s":{"dtype":"%s","shape":%s,"data_offsets":%s}`, name, dtype, shape, offsets)
}

func TestRefusesBadFiles(t *testing.T) {
	a := entryJSON("a", "F32", "[1]", "[0,4]")
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"empty", nil, "0 bytes are too few"},
		{"short", []byte("1234567"), "too few"},
		{"header beyond file", raw("{}", 0)[:9], "truncated"},
		{"huge header", binary.LittleEndian.AppendUint64(nil, 1<<63), "limit"},
		{"header above 100 MB", binary.LittleEndian.AppendUint64(nil, 100_000_001), "limit"},
		{"no header", raw("", 0), "not a safetensors file"},
		{"leading space", raw(" {}", 0), "not a safetensors file"},
		{"array", raw("[]", 0), "not a safetensors file"},
		{"not JSON", raw("{,}", 0), "not valid JSON"},
		{"two objects", raw("{}{}", 0), "not valid JSON"},
		{"not UTF-8", raw("{\"\xff\":{}}", 0), "UTF-8"},
		{"truncated data", raw("{"+a+"}", 3), "tensor a: data_offsets [0 4] lie outside"},
		{"trailing data", raw("{"+a+"}", 5), "1 bytes at the end belong to no tensor"},
		{"data without tensors", raw("{}", 1), "belong to no tensor"},
		{"name twice", raw("{"+a+","+a+"}", 4), "tensor a: the header names it twice"},
		{"metadata twice", raw(`{"__metadata__":{},"__metadata__":{}}`, 0), "twice"},
		{"escaped name twice", raw("{"+a+","+entryJSON(`\u0061`, "F32", "[1]", "[4,8]")+"}", 8), "twice"},
		{"overlap", raw("{"+a+","+entryJSON("b", "F32", "[1]", "[2,6]")+"}", 6), "tensor b: its data overlaps that of tensor a"},
		{"same range", raw("{"+a+","+entryJSON("b", "F32", "[1]", "[0,4]")+"}", 4), "overlaps"},
		{"hole", raw("{"+a+","+entryJSON("b", "F32", "[1]", "[5,9]")+"}", 9), "tensor b: 1 bytes before"},
		{"hole at begin", raw("{"+entryJSON("b", "F32", "[1]", "[4,8]")+"}", 8), "tensor b: 4 bytes before"},
		{"empty tensor inside another", raw("{"+a+","+entryJSON("b", "F32", "[0]", "[2,2]")+"}", 4), "overlaps"},
		{"backwards", raw("{"+entryJSON("a", "F32", "[1]", "[4,0]")+"}", 4), "run backwards"},
		{"length", raw("{"+entryJSON("a", "F32", "[2]", "[0,4]")+"}", 4), "span 4 bytes, but F32[2] needs 8"},
		{"one offset", raw("{"+entryJSON("a", "F32", "[1]", "[4]")+"}", 4), "1 data_offsets"},
		{"negative offset", raw("{"+entryJSON("a", "F32", "[1]", "[-4,0]")+"}", 4), "whole numbers"},
		{"negative dimension", raw("{"+entryJSON("a", "F32", "[-1]", "[0,4]")+"}", 4), "whole numbers"},
		{"fraction", raw("{"+entryJSON("a", "F32", "[1.0]", "[0,4]")+"}", 4), "whole numbers"},
		{"offset beyond 64 bits", raw("{"+entryJSON("a", "F32", "[1]", "[0,18446744073709551620]")+"}", 4), "whole numbers"},
		{"product overflow", raw("{"+entryJSON("a", "F32", "[4294967296,4294967296]", "[0,0]")+"}", 0), "too large"},
		{"overflow to fitting size", raw("{"+entryJSON("a", "F32", "[9223372036854775807,4]", "[0,4]")+"}", 4), "too large"},
		{"bytes beyond int", raw("{"+entryJSON("a", "F16", "[4611686018427387904]", "[0,0]")+"}", 0), "too large"},
		{"dimension beyond int", raw("{"+entryJSON("a", "F32", "[18446744073709551615]", "[0,4]")+"}", 4), "too large"},
		{"overflow hidden by zero", raw("{"+entryJSON("a", "F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]")+"}", 0), "too large"},
		{"unknown dtype", raw("{"+entryJSON("a", "F33", "[1]", "[0,4]")+"}", 4), `tensor a: unknown dtype "F33"`},
		{"lower-case dtype", raw("{"+entryJSON("a", "f32", "[1]", "[0,4]")+"}", 4), "unknown dtype"},
		{"no dtype", raw(`{"a":{"shape":[1],"data_offsets":[0,4]}}`, 4), "dtype is missing"},
		{"no shape", raw(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), "shape is missing"},
		{"no offsets", raw(`{"a":{"dtype":"F32","shape":[1]}}`, 4), "data_offsets is missing"},
		{"other case", raw(`{"a":{"DTYPE":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), "dtype is missing"},
		{"dtype twice", raw(`{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}`, 4), "dtype occurs twice"},
		{"tensor not an object", raw(`{"a":4}`, 4), "want an object"},
		{"shape not an array", raw("{"+entryJSON("a", "F32", "1", "[0,4]")+"}", 4), "want an array"},
		{"dtype number", raw(`{"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}}`, 4), "not a string"},
		{"metadata number", raw(`{"__metadata__":{"k":1}}`, 0), `key "k" is not a string`},
		{"metadata list", raw(`{"__metadata__":[]}`, 0), "want an object"},
	} {
		f, path, err := openRaw(t, c.content)
		if err == nil {
			f.Close()
			t.Errorf("%s: opened", c.name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %q, want the path and %q", c.name, err, c.want)
		}
	}
}

// Files of other formats are named, with what to do instead.
func TestForeignFiles(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    string
	}{
		"zip.ckpt":             {"PK\x03\x04\x14\x00\x00\x00archive/data.pkl", "weights_only=True"},
		"old.pt":               {"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "weights_only=True"},
		"other.pth":            {"whatever this is, it has that name", "runs whatever code"},
		"pointer.safetensors":  {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"},
		"page.safetensors":     {"\n<!DOCTYPE html><html>Sign in</html>", "a web page"},
		"x.gguf":               {"GGUF\x03\x00\x00\x00\x00\x00", "GGUF"},
		"x.h5":                 {"\x89HDF\r\n\x1a\n\x00\x00", "HDF5"},
		"part.safetensors":     {strings.Repeat("\x00", 4096), "unfinished download"},
		"download.safetensors": {string(raw("{"+entryJSON("a", "F32", "[1024]", "[0,4096]")+"}", 4096)[:1000]), "tensor a: data_offsets [0 4096] lie outside"},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(c.content), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A header of 640 bytes begins like a pickle.
	if f, _, err := openRaw(t, raw("{"+entryJSON("a", "U8", "[0]", "[0,0]")+strings.Repeat(" ", 640-2-len(entryJSON("a", "U8", "[0]", "[0,0]")))+"}", 0)); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}

func TestAcceptsUnusualFiles(t *testing.T) {
	for name, content := range map[string][]byte{
		"no tensors":    raw("{}", 0),
		"spaces":        raw("{}      ", 0),
		"unknown field": raw(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":{"x":[1]}}}`, 4),
		"unsorted":      raw("{"+entryJSON("b", "U8", "[3]", "[2,5]")+","+entryJSON("a", "F16", "[]", "[0,2]")+"}", 5),
		"empty tensors": raw("{"+entryJSON("b", "U8", "[0]", "[0,0]")+","+entryJSON("a", "F16", "[2,0]", "[0,0]")+"}", 0),
	} {
		f, _, err := openRaw(t, content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Close()
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder opened as weights")
	}
}

func TestChangedFile(t *testing.T) {
	values := make([]float32, 100_000)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := Write(path, []Tensor{FromFloat32("w", []int{100_000}, values, F32)}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := f.Tensor("w")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensor("w"); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("tensor of a truncated file: %v", err)
	}
	if _, err := before.Float32(); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("values of a truncated file: %v", err)
	}
	if err := Write(filepath.Join(t.TempDir(), "copy"), []Tensor{before}, nil); err == nil {
		t.Error("copied a truncated file")
	}
	f.Close()
	if _, err := before.Float32(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("values of a closed file: %v", err)
	}
	if _, err := f.Tensor("w"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("tensor of a closed file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// FuzzOpen wants agreement with another reader, and an error or a file whose every tensor lies inside it and which
// whose header survives being written and read again.
func FuzzOpen(f *testing.F) {
	golden, err := os.ReadFile(pythonFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(raw("{}", 0))
	f.Add(raw("{"+entryJSON("a", "F32", "[]", "[0,4]")+"}", 4))
	f.Add(raw("{"+entryJSON("a", "F32", "[9223372036854775807,4]", "[0,4]")+"}", 4))
	f.Add(raw(`{"__metadata__":{"k":"v"},`+entryJSON("b", "U8", "[3]", "[2,5]")+","+entryJSON("a", "F16", "[]", "[0,2]")+"}", 5))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, _, err := openRaw(t, content)
		if err != nil {
			return
		}
		defer file.Close()
		agrees(t, content, file)
		total := 0
		var tensors []Tensor
		for _, name := range file.Names() {
			tensor, err := file.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if want := tensor.Elements() * tensor.DType.Size(); len(tensor.Data) != want {
				t.Fatalf("%s: %d bytes, want %d", name, len(tensor.Data), want)
			}
			total += len(tensor.Data)
			tensor.Float32()
			tensors = append(tensors, tensor)
		}
		if total > len(content)-8 {
			t.Fatalf("tensors hold %d bytes of a file of %d", total, len(content))
		}
		header, err := buildHeader(inFileOrder(tensors), file.Metadata())
		if err != nil {
			t.Fatalf("cannot write what was read: %v", err)
		}
		again, _, err := parseHeader(header[8:], uint64(total))
		if err != nil || len(again) != len(tensors) {
			t.Fatalf("read %d of %d tensors again: %v", len(again), len(tensors), err)
		}
	})
}

// FuzzIndex wants an error or shards inside the folder.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":4},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"/etc/passwd","b":""}}`))
	f.Add([]byte(`{"weight_map":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		index := filepath.Join(dir, "model.safetensors.index.json")
		if err := os.WriteFile(index, content, 0o666); err != nil {
			t.Fatal(err)
		}
		files, err := ModelFiles(dir)
		if err != nil {
			if !strings.Contains(err.Error(), index) {
				t.Errorf("the error does not name the index: %v", err)
			}
			return
		}
		for _, path := range files[1:] {
			if rel, err := filepath.Rel(dir, path); err != nil || !filepath.IsLocal(rel) {
				t.Errorf("shard %s lies outside the folder", path)
			}
		}
		if src, err := OpenModel(dir); err == nil {
			src.Close()
			t.Error("opened shards that are not there")
		}
	})
}
