package xla

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDriverVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "version")
	for text, want := range map[string]string{
		"NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc version 12.3.0\n":                       "535.129.03",
		"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (dvs-builder@U22)  Wed Aug 27 18:44:57 UTC 2025\nGCC version:\n": "580.82.07",
		"something else\n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if got := driverVersion(path); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := driverVersion(path + "2"); got != "" {
		t.Errorf("no file: %q", got)
	}
}
