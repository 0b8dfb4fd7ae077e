package xla

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/internal/xla/xlatest"
)

// cpuOrSkip opens the CPU plugin, or skips where it has not been fetched.
func cpuOrSkip(t *testing.T, opt Options) *Runtime {
	t.Helper()
	rt, err := Open(CPU, opt)
	if errors.Is(err, ErrNoBackend) {
		xlatest.Missing(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	return rt
}

// check lets the backend multiply two matrices.
func check(t *testing.T, rt *Runtime) {
	t.Helper()
	if err := rt.Check(); err != nil {
		t.Fatal(err)
	}
}

// nowhere is a search that finds nothing.
func nowhere(t *testing.T) *Search {
	return &Search{CacheDir: filepath.Join(t.TempDir(), "plugins")}
}

func TestCPUPluginMultiplies(t *testing.T) {
	rt := cpuOrSkip(t, Options{})
	if rt.Kind != CPU || rt.NumDevices() != 1 || !strings.HasPrefix(rt.Version, "PJRT 0.") {
		t.Fatalf("kind %q, %d devices, version %q", rt.Kind, rt.NumDevices(), rt.Version)
	}
	if _, err := os.Stat(rt.Plugin); err != nil {
		t.Fatal(err)
	}
	check(t, rt)
}

func TestVirtualCPUDevices(t *testing.T) {
	rt := cpuOrSkip(t, Options{Devices: 3})
	if rt.NumDevices() != 3 {
		t.Fatalf("%d devices, want 3", rt.NumDevices())
	}
	check(t, rt)
}

func TestAutoFallsBackToGo(t *testing.T) {
	for _, gpu := range []bool{false, true} {
		search := nowhere(t)
		search.HasGPU = gpu
		rt, err := Open(Auto, Options{Search: search, Devices: 2})
		if err != nil {
			t.Fatal(err)
		}
		if rt.Kind != Go || rt.Plugin != "" {
			t.Fatalf("kind %q, plugin %q", rt.Kind, rt.Plugin)
		}
		notes := strings.Join(rt.Notes, "\n")
		for _, want := range []string{"warning: the pure-Go backend", "make setup", "no cpu plugin found", "2 virtual devices"} {
			if !strings.Contains(notes, want) {
				t.Errorf("GPU %t: no %q in the notes:\n%s", gpu, want, notes)
			}
		}
		if strings.Contains(notes, "jax[cuda13]") != gpu {
			t.Errorf("GPU %t: the CUDA remedy is told only where there is a GPU:\n%s", gpu, notes)
		}
		check(t, rt)
		rt.Close()
	}
}

// The environment alone decides as well: no plugin in the cache folder of an empty home.
func TestEmptyHomeFallsBackToGo(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	t.Setenv(PluginEnv, "")
	t.Setenv(PluginPathEnv, "")
	search := DefaultSearch()
	search.HasGPU = false
	search.SystemDirs = nil
	rt, err := Open(Auto, Options{Search: search})
	if err != nil {
		t.Fatal(err)
	}
	if rt.Kind != Go {
		t.Fatalf("kind %q with an empty home", rt.Kind)
	}
}

func TestBrokenPluginIsNamed(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "pjrt_c_api_cpu_plugin.so")
	if err := os.WriteFile(broken, []byte("not a library"), 0o644); err != nil {
		t.Fatal(err)
	}
	search := nowhere(t)
	search.PluginFile = broken
	_, err := Open(CPU, Options{Search: search})
	if !errors.Is(err, ErrNoBackend) || !strings.Contains(err.Error(), broken) {
		t.Fatalf("error %v, want one that names %s", err, broken)
	}
	rt, err := Open(Auto, Options{Search: search})
	if err != nil || rt.Kind != Go || !strings.Contains(strings.Join(rt.Notes, "\n"), broken) {
		t.Fatalf("auto: %+v, %v", rt, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		choice string
		opt    Options
		want   string
	}{
		{"tpu", Options{}, "choose one of auto, cuda, cpu, go"},
		{CUDA, Options{}, "jax[cuda13]"},
		{CPU, Options{}, "make setup"},
		{CPU, Options{Devices: -1}, "virtual CPU devices"},
		{CUDA, Options{MemoryFraction: 1.5}, "memory fraction"},
	} {
		c.opt.Search = nowhere(t)
		if _, err := Open(c.choice, c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%q, %+v): %v, want an error with %q", c.choice, c.opt, err, c.want)
		}
	}
}

// The CPU plugin keeps no figures: its own refusal must come back, which shows that the right client and device
// were asked. (That two clients are told apart is shown by their numbers of devices.)
func TestDeviceMemory(t *testing.T) {
	two := cpuOrSkip(t, Options{Devices: 2})
	one := cpuOrSkip(t, Options{})
	if _, err := two.DeviceMemory(1); err != nil && !errors.Is(err, ErrNoMemoryFigures) {
		t.Error(err)
	} else {
		t.Log(err)
	}
	if _, err := one.DeviceMemory(1); err == nil || errors.Is(err, ErrNoMemoryFigures) {
		t.Errorf("device 1 of one device: %v", err)
	}
	if two.client.handle == nil || one.client.handle == nil || two.client.handle == one.client.handle {
		t.Errorf("clients %p and %p", two.client.handle, one.client.handle)
	}
	pureGo, err := Open(Go, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pureGo.DeviceMemory(0); !errors.Is(err, ErrNoMemoryFigures) {
		t.Errorf("pure Go: %v", err)
	}
}

func TestHostFigures(t *testing.T) {
	if got := meminfo("MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:   12 kB\n", "MemAvailable"); got != 12<<10 {
		t.Errorf("MemAvailable %d", got)
	}
	total, available, err := HostMemory()
	if err != nil {
		t.Skip(err)
	}
	if available <= 0 || available > total {
		t.Errorf("%d of %d bytes available", available, total)
	}
	if free, err := DiskFree(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("free space %d, %v", free, err)
	}
	if _, err := DiskFree(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("free space of a folder that is not there")
	}
}
