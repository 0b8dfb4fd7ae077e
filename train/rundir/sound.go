package rundir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// hashes remembers the digests of files, so that a process reads each of them once for as long as it stays the same file
// of the same size and time. The zero value is ready.
type hashes struct {
	mu    sync.Mutex
	known map[string]hashed
}

type hashed struct {
	info   fs.FileInfo
	sha256 string
}

// of is the digest of the file at path, which info describes.
func (h *hashes) of(path string, info fs.FileInfo) (string, error) {
	h.mu.Lock()
	known, ok := h.known[path]
	h.mu.Unlock()
	if ok && os.SameFile(known.info, info) && known.info.Size() == info.Size() && known.info.ModTime().Equal(info.ModTime()) {
		return known.sha256, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, f); err != nil {
		return "", err
	}
	sum := hex.EncodeToString(digest.Sum(nil))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil {
		h.known = map[string]hashed{}
	}
	h.known[path] = hashed{info, sum}
	return sum, nil
}

// sound compares a file with what a manifest says of it: *Damaged where it is missing or has another size or digest. Any
// other error is of reading: the file may be sound.
func (h *hashes) sound(folder string, e entry) error {
	damaged := func(format string, args ...any) error {
		return &Damaged{Path: folder, Why: fmt.Sprintf(e.Name+" "+format, args...)}
	}
	path := filepath.Join(folder, filepath.FromSlash(e.Name))
	info, err := e.size(folder)
	if err != nil {
		return err
	}
	sum, err := h.of(path, info)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return damaged("is missing")
	case err != nil:
		return fmt.Errorf("compare %s with its digest: %w", path, err)
	case sum != e.SHA256:
		return damaged("has SHA-256 %s, the manifest says %s", sum, e.SHA256)
	}
	return nil
}

// verify is sound for all files of a folder, of which the sizes are compared first.
func (h *hashes) verify(folder string, m *manifest) error {
	if err := m.sizes(folder); err != nil {
		return err
	}
	for _, e := range m.Files {
		if err := h.sound(folder, e); err != nil {
			return err
		}
	}
	return nil
}

// sizes compares only file sizes, which is cheap. Its errors are those of sound.
func (m *manifest) sizes(folder string) error {
	for _, e := range m.Files {
		if _, err := e.size(folder); err != nil {
			return err
		}
	}
	return nil
}

func (e entry) size(folder string) (fs.FileInfo, error) {
	info, err := os.Stat(filepath.Join(folder, filepath.FromSlash(e.Name)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Damaged{Path: folder, Why: e.Name + " is missing"}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &Damaged{Path: folder, Why: e.Name + " is not a file"}
	case info.Size() != e.Size:
		return nil, &Damaged{Path: folder, Why: fmt.Sprintf("%s has %d bytes, the manifest says %d", e.Name, info.Size(), e.Size)}
	}
	return info, nil
}

// unsound says whether an error is about the bytes of a file rather than about reading them.
func unsound(err error) bool {
	var d *Damaged
	return errors.As(err, &d)
}
