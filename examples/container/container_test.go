package container_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// The image is built with the Go of go.mod and the plugin whose kernel choices come with the binary, README names the same one,
// and what is copied into it is there and not ignored. No image is built here.
func TestDockerfile(t *testing.T) {
	read := func(name string) string {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	file := read("Dockerfile")
	find := func(in, pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(in)
		if m == nil {
			t.Fatalf("nothing matches %s", pattern)
		}
		return m[1]
	}
	if got, want := find(file, `FROM golang:([\d.]+)-`), find(read(root+"/go.mod"), `(?m)^go ([\d.]+)$`); got != want {
		t.Errorf("Go %s, and %s in go.mod", got, want)
	}
	plugin := find(file, `jax-cuda13-plugin\[with-cuda\]==([\d.]+)`)
	if want := find(read(root+"/internal/xla/tuned.go"), `jax_cuda13_pjrt-([\d.]+)\.dist-info`); plugin != want {
		t.Errorf("plugin %s, and kernels are chosen for %s", plugin, want)
	}
	if want := find(read(root+"/README.md"), `jax\[cuda13\]==([\d.]+)`); plugin != want {
		t.Errorf("plugin %s, and %s in README", plugin, want)
	}

	var ignored []string
	for line := range strings.Lines(read("Dockerfile.dockerignore")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			ignored = append(ignored, strings.Trim(line, "/"))
		}
	}
	copied := regexp.MustCompile(`(?m)^COPY ([^-\n].*) \S+$`).FindAllStringSubmatch(file, -1)
	if len(copied) < 4 {
		t.Fatalf("%d lines copy from the repository", len(copied))
	}
	for _, m := range copied {
		for _, name := range strings.Fields(m[1]) {
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Error(err)
			}
			for _, pattern := range ignored {
				if match, err := path.Match(pattern, name); err != nil || match {
					t.Errorf("%s is ignored by %q (%v)", name, pattern, err)
				}
			}
		}
	}
}
