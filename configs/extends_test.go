package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recipes writes files and returns the path of the last.
func recipes(t *testing.T, contents ...string) string {
	t.Helper()
	dir := t.TempDir()
	var path string
	for i := 0; i < len(contents); i += 2 {
		path = filepath.Join(dir, contents[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(contents[i+1]), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// A recipe that extends another is that one but for what it says itself.
func TestExtends(t *testing.T) {
	path := recipes(t,
		"base/a.yaml", minimal+"\ntrain: {batch: 4, accumulate: 2}\nstages: {\"8\": {phases: {lora-cond: {samples: 640}}}}\n",
		"base/b.yaml", "extends: a.yaml\ntrain: {batch: 6}\n",
		"rows/c.yaml", "name: row\nextends: ../base/b.yaml\nstages: {\"8\": {phases: {lora-cond: {lr: 3e-5}}}}\n")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Stage("8").Phase("lora-cond")
	if c.Name != "row" || c.Train.Batch != 6 || c.Train.Accumulate != 2 || p.Samples != 640 || p.LR != 3e-5 {
		t.Errorf("name %q, train %+v, phase %+v", c.Name, c.Train, p)
	}
	for _, v := range c.Provenance() {
		if v.Key == "train.accumulate" && !strings.Contains(v.From, "a.yaml") || v.Key == "train.batch" && !strings.Contains(v.From, "b.yaml") {
			t.Errorf("%s is said to come from %s", v.Key, v.From)
		}
	}
}

func TestExtendsRefused(t *testing.T) {
	for want, files := range map[string][]string{
		"in turn":           {"a.yaml", minimal + "\nextends: b.yaml\n", "b.yaml", "extends: a.yaml\n"},
		"extends: open":     {"a.yaml", minimal + "\nextends: missing.yaml\n"},
		"path of a recipe":  {"a.yaml", minimal + "\nextends: [x]\n"},
		"a.yaml:1: train":   {"a.yaml", "train: {bach: 3}\n", "b.yaml", minimal + "\nextends: a.yaml\n"},
		"the recipe is emp": {"a.yaml", "\n", "b.yaml", minimal + "\nextends: a.yaml\n"},
	} {
		if _, err := Load(recipes(t, files...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error that says %q, got %v", want, err)
		}
	}
}
