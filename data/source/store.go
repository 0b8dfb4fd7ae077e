package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// object is a file of a store.
type object struct {
	name  string // slash-separated, relative to the store's root
	size  int64
	stamp string // changes when the content does: time, or S3's ETag
}

// store is where files lie.
type store interface {
	// list gives every object below a prefix, a folder or the beginning of names, in lexical order of names.
	list(ctx context.Context, prefix string) ([]object, error)
	// stat describes one object; fs.ErrNotExist if there is none.
	stat(ctx context.Context, name string) (object, error)
	// readAt fills p from an offset on; fewer bytes are io.ErrUnexpectedEOF.
	readAt(ctx context.Context, name string, p []byte, offset int64) error
	// stream reads an object from an offset to its end.
	stream(ctx context.Context, name string, offset int64) (io.ReadCloser, error)
	// address names an object for messages.
	address(name string) string
	remote() bool
}

// readAll reads a whole object.
func readAll(ctx context.Context, s store, o object) ([]byte, error) {
	b := make([]byte, o.size)
	if err := s.readAt(ctx, o.name, b, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", s.address(o.name), err)
	}
	return b, nil
}

// disk is a folder of the machine.
type disk struct{ root string }

func (d disk) path(name string) string    { return filepath.Join(d.root, filepath.FromSlash(name)) }
func (d disk) address(name string) string { return d.path(name) }
func (d disk) remote() bool               { return false }

func (d disk) stat(_ context.Context, name string) (object, error) {
	info, err := os.Stat(d.path(name))
	if err != nil {
		return object{}, err
	}
	return diskObject(name, info), nil
}

func diskObject(name string, info fs.FileInfo) object {
	return object{name, info.Size(), fmt.Sprint(info.ModTime().UnixNano())}
}

func (d disk) readAt(_ context.Context, name string, p []byte, offset int64) error {
	f, err := os.Open(d.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(p, offset); errors.Is(err, io.EOF) && len(p) > 0 {
		return io.ErrUnexpectedEOF
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (d disk) stream(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// list walks a folder in lexical order and follows links; a folder that is linked into itself is walked once. A link to
// nothing is listed with the size −1.
func (d disk) list(_ context.Context, prefix string) ([]object, error) {
	var out []object
	above := map[string]bool{} // real paths of the folders that are being walked
	var walk func(dir string) error
	walk = func(dir string) error {
		resolved, err := filepath.EvalSymlinks(d.path(dir))
		if err != nil {
			return err
		}
		if above[resolved] {
			return nil
		}
		above[resolved] = true
		defer delete(above, resolved)
		entries, err := os.ReadDir(d.path(dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			info, err := os.Stat(d.path(name))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				out = append(out, object{name: name, size: -1})
			case err != nil:
				return err
			case info.IsDir():
				if err := walk(name); err != nil {
					return err
				}
			case info.Mode().IsRegular():
				out = append(out, diskObject(name, info))
			}
		}
		return nil
	}
	return out, walk(prefix)
}

// hidden says whether a name is a file that systems and tools put beside data: hidden ones, macOS' ._ files, notebooks'
// checkpoints.
func hidden(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != "." && part != ".." || part == "__MACOSX" || part == "Thumbs.db" || part == "desktop.ini" || part == "@eaDir" {
			return true
		}
	}
	return false
}
