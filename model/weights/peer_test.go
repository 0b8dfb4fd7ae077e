package weights

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	peer "github.com/nlpodyssey/safetensors"
)

// agrees wants nlpodyssey/safetensors to see the same names, types, shapes, data and metadata in a file, if it can read
// it at all: it refuses scalars and some types. It says whether it could.
func agrees(t *testing.T, content []byte, f *File) bool {
	t.Helper()
	theirs, err := peer.Deserialize(content)
	if err != nil {
		return false
	}
	_, metadata, err := peer.ReadMetadata(content)
	if err != nil {
		t.Fatal(err)
	}
	if got := metadata.Metadata(); !maps.Equal(got, f.Metadata()) {
		t.Fatalf("metadata %v, theirs %v", f.Metadata(), got)
	}
	names := theirs.Names()
	slices.Sort(names)
	if !slices.Equal(names, f.Names()) {
		t.Fatalf("names %v, theirs %v", f.Names(), names)
	}
	for _, name := range names {
		ours, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		view, ok := theirs.Tensor(name)
		if !ok {
			t.Fatalf("%s: they name a tensor and do not have it", name)
		}
		shape := []int{}
		for _, d := range view.Shape() {
			shape = append(shape, int(d))
		}
		if view.DType().String() != string(ours.DType) || !slices.Equal(shape, ours.Shape) || !bytes.Equal(view.Data(), ours.Data) {
			t.Fatalf("%s: %s%v of %d bytes, theirs %s%v of %d", name, ours.DType, ours.Shape, len(ours.Data), view.DType(), shape, len(view.Data()))
		}
	}
	return true
}

// TestAgreesWithPeer reads the repository's own files with both.
func TestAgreesWithPeer(t *testing.T) {
	var paths []string
	for _, pattern := range []string{"../../assets/mini/*/*.safetensors", "../*/testdata/*.safetensors", "../golden/testdata/*/golden.safetensors"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	read := 0
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if agrees(t, content, f) {
			read++
		}
		f.Close()
	}
	if read < 10 {
		t.Errorf("they could read %d of %d files", read, len(paths))
	}
}
