// Package assets holds the model mini and the scenes of its recipes inside the program, so that these recipes run where there
// is no repository. Only commands import it: it makes a binary 25 MB larger.
package assets

import (
	"bytes"
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fewstep/internal/atomicfile"
)

//go:embed mini/*.json mini/*.md mini/clip mini/scheduler mini/text_encoder mini/text_encoder_2 mini/tokenizer mini/tokenizer_2 mini/unet mini/vae
//go:embed scenes/demo.scenes.json scenes/64.scenes.json scenes/sprites.zip
var files embed.FS

// Has says whether a path of a recipe, such as assets/scenes/demo.scenes.json, names a file or folder of this package.
func Has(path string) bool {
	name, ok := strings.CutPrefix(filepath.ToSlash(filepath.Clean(path)), "assets/")
	if !ok {
		return false
	}
	_, err := fs.Stat(files, name)
	return err == nil
}

// Unpack makes root/assets what this package holds: it writes the files that are missing there or have another content, and says
// how many these were.
func Unpack(root string) (written int, err error) {
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		path := filepath.Join(root, "assets", filepath.FromSlash(name))
		if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) {
			return nil
		}
		written++
		return atomicfile.WriteBytes(path, content)
	})
	return written, err
}
