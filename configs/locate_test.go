package configs

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLocate(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"configs/mini", "assets/mini", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	recipe := filepath.Join(root, "configs/mini/r.yaml")
	if err := os.WriteFile(recipe, []byte("model: assets/mini\ndata: {source: s3://bucket/x, captions: {fine: 1}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(root, "elsewhere"))
	c, err := Load(recipe)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.ModelPath(), filepath.Join(root, "assets/mini"); got != want {
		t.Errorf("from elsewhere: %s, want %s", got, want)
	}
	if c.Model != "assets/mini" {
		t.Errorf("the recipe's own text became %s", c.Model)
	}
	if got := c.SourcePath(); got != "s3://bucket/x" {
		t.Errorf("an address became %s", got)
	}
	if got := c.Locate("nowhere/to/be/found"); got != "nowhere/to/be/found" {
		t.Errorf("a missing path became %s", got)
	}
	t.Chdir(root)
	if got := c.ModelPath(); got != "assets/mini" {
		t.Errorf("in the repository: %s", got)
	}
	if got := c.Locate(root); got != root {
		t.Errorf("an absolute path became %s", got)
	}
}
