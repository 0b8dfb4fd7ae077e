package configs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Locate returns where a path of the recipe (Model, Data.Source) is found.
// Absolute paths and addresses such as s3:// are themselves. A relative path is
// looked for in the current directory, then in the recipe's folder and each
// folder above it, so recipes work from anywhere in the repository, then among
// the assets that commands unpack ([UnpackedRoot]); found nowhere, it is
// returned as it is.
func (c *Recipe) Locate(path string) string {
	if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") || present(path) {
		return path
	}
	directory := "." // of an embedded recipe
	if !c.Embedded() {
		directory = filepath.Dir(c.file)
	}
	directory, err := filepath.Abs(directory)
	if err != nil {
		return path
	}
	for {
		if candidate := filepath.Join(directory, path); present(candidate) {
			return candidate
		}
		parent := filepath.Dir(directory)
		if parent == directory {
			break
		}
		directory = parent
	}
	if root := UnpackedRoot(); root != "" {
		if candidate := filepath.Join(root, path); present(candidate) {
			return candidate
		}
	}
	return path
}

// ModelPath is where the base model's directory is found.
func (c *Recipe) ModelPath() string { return c.Locate(c.Model) }

// SourcePath is where the data set is found.
func (c *Recipe) SourcePath() string { return c.Locate(c.Data.Source) }

// present says whether a path is there; of a pattern with braces and wildcards, the folder that it begins with.
func present(path string) bool {
	_, err := os.Stat(path)
	if at := strings.IndexAny(path, "{*?["); err != nil && at >= 0 {
		if folder := filepath.Dir(path[:at] + "x"); folder != "." {
			_, err = os.Stat(folder)
		}
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid)
}
