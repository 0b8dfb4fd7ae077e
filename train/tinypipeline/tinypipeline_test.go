package tinypipeline

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Equal calls give equal bytes, or tests of equal runs would mean nothing.
func TestWriteIsReproducible(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		if _, err := Write(dir, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	err := fs.WalkDir(os.DirFS(one), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		a, err := os.ReadFile(filepath.Join(one, path))
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(two, path))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", path)
		}
		total += len(a)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if total > 1<<20 {
		t.Errorf("%d bytes are not tiny", total)
	}
}
