package xlatest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A test without its plugin is skipped, and fails where one is required.
func TestMissing(t *testing.T) {
	if os.Getenv("XLATEST_CHILD") != "" {
		Missing(t, "nothing here")
	}
	for require, want := range map[string]string{"": "--- SKIP: TestMissing", "1": "--- FAIL: TestMissing"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMissing$", "-test.v")
		cmd.Env = append(os.Environ(), "XLATEST_CHILD=1", RequireEnv+"="+require)
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) || !strings.Contains(string(out), "nothing here") {
			t.Errorf("%q:\n%s", require, out)
		}
	}
}
