package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteDir(t *testing.T) {
	parent := t.TempDir()
	out := filepath.Join(parent, "deep", "out")
	fill := func(folder string) error {
		return WriteBytes(filepath.Join(folder, "sub", "file"), []byte("content"))
	}
	if err := WriteDir(out, fill); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "sub", "file")); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if err := WriteDir(out, fill); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("over a folder with content: %v", err)
	}
	empty := filepath.Join(parent, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteDir(empty+"/", fill); err != nil {
		t.Errorf("over an empty folder: %v", err)
	}
	broken := errors.New("broken")
	failed := filepath.Join(parent, "failed")
	err := WriteDir(failed, func(folder string) error { return errors.Join(fill(folder), broken) })
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
	if err := WriteDir(filepath.Join(out, "sub", "file", "x"), fill); err == nil || !strings.Contains(err.Error(), "a file, not a folder") {
		t.Errorf("below a file: %v", err)
	}
}

// What is known last can be written first.
func TestWriteAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	err := Write(path, func(w io.Writer) error {
		if _, err := io.WriteString(w, "????, the rest"); err != nil {
			return err
		}
		_, err := w.(io.WriterAt).WriteAt([]byte("head"), 0)
		return err
	})
	if got, _ := os.ReadFile(path); err != nil || string(got) != "head, the rest" {
		t.Errorf("%q, %v", got, err)
	}
}
