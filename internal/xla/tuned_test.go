package xla

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTunedFlags(t *testing.T) {
	dir, site := filepath.Join(t.TempDir(), "programs"), t.TempDir()
	plugin := filepath.Join(site, "jax_plugins", "xla_cuda13", "xla_cuda_plugin.so")
	if flags, _ := tunedFlags(plugin, "", dir); len(flags) != 2 {
		t.Errorf("a plugin of another version gets the flags %q", flags)
	}
	if err := os.Mkdir(filepath.Join(site, tunedWheel), 0o755); err != nil {
		t.Fatal(err)
	}
	flags, note := tunedFlags(plugin, "", dir)
	if note != "" || len(flags) != 3 {
		t.Fatalf("flags %q, note %q: wanted three flags and no note", flags, note)
	}
	if flags[0] != "--xla_gpu_autotune_level=1" || flags[1] != "--xla_gpu_per_fusion_autotune_cache_dir="+filepath.Join(dir, "tuned") {
		t.Errorf("flags are %q", flags)
	}
	_, file, _ := strings.Cut(flags[2], "=")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// XLA stops a process whose file it cannot read or that names a fusion twice.
	keys := regexp.MustCompile(`(?s)  key \{.*?\n  \}\n`).FindAllString(string(text), -1)
	if n := strings.Count(string(text), "\nentries {"); len(keys) < 1000 || n != len(keys)-1 {
		t.Errorf("%d entries and %d keys come with the binary", n+1, len(keys))
	}
	seen := map[string]bool{}
	for _, k := range keys {
		if seen[k] {
			t.Errorf("there are two results for\n%s", k)
		}
		seen[k] = true
	}
	info, _ := os.Stat(file)
	again, _ := tunedFlags(plugin, "", dir)
	if now, _ := os.Stat(file); again[2] != flags[2] || !now.ModTime().Equal(info.ModTime()) {
		t.Error("the results are unpacked anew")
	}

	own := "--xla_gpu_autotune_level=4 --xla_gpu_per_fusion_autotune_cache_dir=/a --xla_gpu_load_autotune_results_from=/b"
	if flags, _ := tunedFlags(plugin, own, dir); len(flags) > 0 {
		t.Errorf("the user's flags are overridden by %q", flags)
	}
	if flags, _ := tunedFlags(plugin, "", "off"); len(flags) != 1 {
		t.Errorf("without a folder the flags are %q", flags)
	}
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if flags, note := tunedFlags(plugin, "", blocked); len(flags) != 1 || !strings.Contains(note, "tried out anew") {
		t.Errorf("without a folder to write: flags %q, note %q", flags, note)
	}
}

func TestWithoutPlaces(t *testing.T) {
	got := withoutPlaces(" --xla_gpu_cuda_data_dir=/usr/local/cuda --xla_gpu_autotune_level=1  --xla_gpu_per_fusion_autotune_cache_dir=/x")
	if got != "--xla_gpu_autotune_level=1" {
		t.Errorf("got %q", got)
	}
}
