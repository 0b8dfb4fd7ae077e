// Package architecture keeps ARCHITECTURE.md true.
package architecture

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "fewstep/"
	root   = "../.."
)

// imports lists the module's packages and what each imports of the module, its tests left out. It reads the sources itself, so
// that go test notices when they change.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	files := token.NewFileSet()
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && file != root && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		folder, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		folder = filepath.ToSlash(folder)
		if found[folder] == nil {
			found[folder] = []string{}
		}
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(files, file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range parsed.Imports {
			if rest, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module); ok {
				found[folder] = append(found[folder], rest)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var row = regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\| (.*\\S) \\|$")

// Every package has a row of the page's tables, in the order of import: a package imports only packages above it.
func TestPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		if slices.Contains(order, m[1]) {
			t.Errorf("%s has two rows", m[1])
		}
		order = append(order, m[1])
	}
	found := imports(t)
	for name := range found {
		if !slices.Contains(order, name) {
			t.Errorf("package %s has no row: say in ARCHITECTURE.md what it is for, below all that it imports", name)
		}
	}
	for at, name := range order {
		imported, ok := found[name]
		if !ok {
			t.Errorf("there is no package %s", name)
		}
		for _, i := range imported {
			if above := slices.Index(order, i); above > at {
				t.Errorf("%s imports %s, which stands below it: imports point one way", name, i)
			}
		}
	}
}

// The page and the guide for contributors name files that are there.
func TestNamedFiles(t *testing.T) {
	name := regexp.MustCompile("`((?:cmd|configs|data|model|distill|engine|train|eval|internal|interop|scripts|examples|cluster|assets)/[A-Za-z0-9_./-]*)`")
	for _, page := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		found := name.FindAllSubmatch(text, -1)
		if len(found) == 0 {
			t.Errorf("%s names no file: the pattern no longer fits", page)
		}
		for _, m := range found {
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(string(m[1])))); err != nil {
				t.Errorf("%s names %s: %v", page, m[1], err)
			}
		}
	}
}
