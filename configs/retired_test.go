package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key that older recipes have is read, told of and not written again.
func TestRetired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	if err := os.WriteFile(path, []byte(minimal+"train:\n  log_every: 5\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, "train.log_every=6")
	if err != nil {
		t.Fatal(err)
	}
	told := c.Retired()
	if len(told) != 2 || !strings.Contains(told[0], "r.yaml:4: train.log_every does nothing any more") || !strings.Contains(told[1], "override train.log_every: ") {
		t.Errorf("%q", told)
	}
	if strings.Contains(string(c.Resolved()), "log_every") {
		t.Errorf("%s", c.Resolved())
	}
	if _, err := Parse([]byte(minimal+"train: {log_evry: 5}"), "r.yaml"); err == nil {
		t.Error("a key that never was is read")
	}
}
