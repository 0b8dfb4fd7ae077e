package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteDir makes the folder path of what fill writes into a temporary one beside it: it appears complete or not at
// all. path must not exist, or be an empty folder. A process killed while writing leaves the hidden temporary folder
// behind, which the next writer beside it removes.
func WriteDir(path string, fill func(folder string) error) (err error) {
	path = filepath.Clean(path)
	if entries, err := os.ReadDir(path); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is there already and not empty: choose a new folder", path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot write the folder %s: %w", path, explain(err))
	}
	parent := filepath.Dir(path)
	if err := MakeDir(parent); err != nil {
		return fmt.Errorf("cannot write the folder %s: %w", path, explain(err))
	}
	sweep(parent)
	temp, err := os.MkdirTemp(parent, tempPrefix)
	if err != nil {
		return fmt.Errorf("cannot write the folder %s: %w", path, explain(err))
	}
	if f, err := os.Open(temp); err == nil {
		hold(f)
		defer f.Close()
	}
	defer os.RemoveAll(temp) // nothing is left of it after the rename
	if err := fill(temp); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(temp, 0o755), removeEmpty(path)); err != nil {
		return fmt.Errorf("cannot write the folder %s: %w", path, explain(err))
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("cannot write the folder %s: %w", path, explain(err))
	}
	return SyncDir(parent)
}

func removeEmpty(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
