package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// read reads settings with a file of this content, these flags, and nothing else of this machine.
func read(t *testing.T, file string, args ...string) (*Settings, map[string]string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(path, []byte(file), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv(FileEnv, path)
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("backend", "auto", "")
	flags.Float64("memory-fraction", 0.92, "")
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	s, err := Read(flags)
	if err != nil {
		return nil, nil, err
	}
	from := map[string]string{}
	for _, p := range s.Provenance() {
		from[p.Key] = strings.Replace(p.From, path, "file", 1)
	}
	return s, from, nil
}

// clean takes every variable that gives a setting out of the environment for one test.
func clean(t *testing.T) {
	for _, s := range known {
		for _, name := range s.env {
			t.Setenv(name, "")
		}
	}
}

// The later layer counts, for every setting, and is told.
func TestLayers(t *testing.T) {
	clean(t)
	s, from, err := read(t, "")
	if err != nil || s.Backend != "auto" || s.MemoryFraction != 0.92 || from["backend"] != "default" || from["object_storage.region"] != "default" {
		t.Errorf("%+v, %v, %v", s, from, err)
	}
	file := "backend: go\nmemory_fraction: 0.5\npython: /usr/bin/python9\nobject_storage:\n  endpoint: http://a\n  region: North\n"
	s, from, err = read(t, file)
	if err != nil || s.Backend != "go" || s.MemoryFraction != 0.5 || s.ObjectStorage != (ObjectStorage{"http://a", "North"}) {
		t.Fatalf("%+v, %v", s, err)
	}
	if from["backend"] != "file:1" || from["memory_fraction"] != "file:2" || from["object_storage.region"] != "file:6" {
		t.Errorf("%v", from)
	}
	for name, want := range map[string]string{"FEWSTEP_PYTHON": "/usr/bin/python9", "AWS_ENDPOINT_URL": "http://a", "AWS_REGION": "North"} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s is %q for those who read it, want %q", name, got, want)
		}
	}
	clean(t)
	t.Setenv("FEWSTEP_BACKEND", "cpu")
	t.Setenv("FEWSTEP_MEMORY_FRACTION", "0.75")
	t.Setenv("FEWSTEP_PYTHON", "/opt/python")
	t.Setenv("AWS_DEFAULT_REGION", "south")
	s, from, err = read(t, file, "--backend", "cuda")
	if err != nil || s.Backend != "cuda" || s.MemoryFraction != 0.75 || s.Python != "/opt/python" || s.ObjectStorage.Region != "south" {
		t.Fatalf("%+v, %v", s, err)
	}
	for key, want := range map[string]string{"backend": "--backend", "memory_fraction": "environment FEWSTEP_MEMORY_FRACTION", "python": "environment FEWSTEP_PYTHON",
		"object_storage.region": "environment AWS_DEFAULT_REGION", "object_storage.endpoint": "file:5"} {
		if from[key] != want {
			t.Errorf("%s is from %q, want %q", key, from[key], want)
		}
	}
	if os.Getenv("FEWSTEP_PYTHON") != "/opt/python" || os.Getenv("AWS_REGION") != "" {
		t.Error("the file took the place of the environment")
	}
}

func TestBadSettings(t *testing.T) {
	clean(t)
	for file, want := range map[string]string{
		"backend: go\nbackned: go\n":       `:2: unknown key backned; did you mean "backend"?`,
		"object_storage: {endpont: a}\n":   `:1: unknown key object_storage.endpont; did you mean "object_storage.endpoint"?`,
		"Backend: go\n":                    ":1: unknown key Backend",
		"backend: go\n\nbackend: cpu\n":    ":3: the key backend stands here a second time",
		"object_storage: a\n":              ":1: keys with values are expected",
		"- backend\n":                      ":1: keys with values are expected",
		"backend: go\n---\nbackend: cpu\n": "a second YAML document",
		"memory_fraction: much\n":          "memory_fraction",
		"backend: [go, cpu]\n":             "backend",
		"backend: \"\xff\"\n":              "settings.yaml",
	} {
		if _, _, err := read(t, file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", file, err, want)
		}
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	t.Setenv(FileEnv, filepath.Join(t.TempDir(), "missing.yaml"))
	if _, err := Read(flags); err == nil {
		t.Error("a settings file that is named and missing must be told of")
	}
	t.Setenv(FileEnv, "")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	if _, err := Read(flags); err != nil {
		t.Errorf("none: %v", err)
	}
}
