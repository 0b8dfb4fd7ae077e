package configs

import (
	"embed"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// The recipes that come with fewstep, and other YAML files beside them that the same folders hold.
//
//go:embed */*.yaml
var files embed.FS

// embedded begins the path of a file of the program itself: embedded:/mini/demo.yaml. The slash keeps it whole where paths are joined.
const embedded = "embedded:/"

// Names are the names of the recipes that come with fewstep, such as mini/demo.
func Names() (names []string) {
	all, _ := fs.Glob(files, "*/*.yaml") // the pattern is sound
	for _, file := range all {
		data, err := files.ReadFile(file)
		if err != nil {
			continue
		}
		if _, err := Parse(data, embedded+file); err == nil { // a file of "train" or "eval" is none
			names = append(names, strings.TrimSuffix(file, ".yaml"))
		}
	}
	return names
}

// find is the file that a user's CONFIG means: a file of that path, else the embedded recipe of that name. Of the names, those
// of the repository's files are understood too: configs/mini/demo.yaml is mini/demo.
func find(name string) string {
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return name
	}
	inside := path.Clean(filepath.ToSlash(name))
	inside = strings.TrimSuffix(strings.TrimPrefix(inside, "configs/"), ".yaml") + ".yaml"
	if _, err := fs.Stat(files, inside); err != nil {
		return name
	}
	return embedded + inside
}

// readFile reads a file of the disk or of the program.
func readFile(name string) ([]byte, error) {
	if inside, ok := strings.CutPrefix(name, embedded); ok {
		return files.ReadFile(inside)
	}
	return os.ReadFile(name)
}

// File is where the recipe was read from. The paths of embedded recipes begin with "embedded:/".
func (c *Recipe) File() string { return c.file }

// Embedded says whether the recipe is one that comes with fewstep, and was not read from a file.
func (c *Recipe) Embedded() bool { return strings.HasPrefix(c.file, embedded) }

// Shadowed says whether a name is that of an embedded recipe and of a file, which is then taken.
func Shadowed(name string) bool {
	return find(name) == name && slices.Contains(Names(), name)
}

// UnpackedRoot is the folder of the user's cache below which the assets lie that a program without its repository has
// unpacked; "" where the user has no such folder.
func UnpackedRoot() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "fewstep", "embedded")
}
