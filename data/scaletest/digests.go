package scaletest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Digests are the SHA-256 of the files of a folder of encodings, by their paths in it.
func Digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.json", "*/*.safetensors", "rows.parquet"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(dir, f)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = fmt.Sprintf("%x", sha256.Sum256(raw))
		}
	}
	return out
}
