package xla

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Environment variables that name plugins.
const (
	PluginEnv      = "FEWSTEP_PJRT_PLUGIN"      // one plugin file; goes before everything else
	PluginPathEnv  = "PJRT_PLUGIN_LIBRARY_PATH" // folders of plugins, go-xla's own variable
	PythonEnv      = "FEWSTEP_PYTHON"           // the interpreter whose packages hold the CUDA plugin
	pythonDeadline = 20 * time.Second
)

// Candidate is a plugin file that was found, with what is needed to load it.
type Candidate struct {
	Kind    string   `json:"kind"`               // CUDA or CPU
	Path    string   `json:"path"`               // the shared library
	Source  string   `json:"source"`             // how it was found
	LibDirs []string `json:"lib_dirs,omitempty"` // folders of NVIDIA libraries that belong to it, best first
	DataDir string   `json:"data_dir,omitempty"` // CUDA toolkit folder (ptxas, libdevice) for --xla_gpu_cuda_data_dir
	Triton  string   `json:"triton,omitempty"`   // Triton's folder with the same two files, where no toolkit has them
}

// Search says where plugins are looked for, in this order:
//
//  1. PluginFile (FEWSTEP_PJRT_PLUGIN): a file; its kind is read from its name
//  2. LibraryPath (PJRT_PLUGIN_LIBRARY_PATH): folders with pjrt_c_api_<name>_plugin.so
//  3. SiteDirs: Python package folders with jax_plugins/xla_cuda13 or xla_cuda12 (CUDA only)
//  4. CacheDir: <user's cache>/fewstep/plugins/*/, filled by scripts/fetch_plugin.py
//  5. SystemDirs: where GoMLX's own installer puts plugins
type Search struct {
	PluginFile  string
	LibraryPath []string
	CacheDir    string
	SiteDirs    func() []string // called at most once, and only when a CUDA plugin is asked for
	SystemDirs  []string
	ToolkitDirs []string // CUDA toolkits outside of Python packages
	HasGPU      bool     // whether this machine shows an NVIDIA GPU

	siteDirs []string // answer of SiteDirs
	asked    bool
}

// DefaultSearch is the search that the environment asks for.
func DefaultSearch() *Search {
	s := &Search{
		PluginFile:  os.Getenv(PluginEnv),
		SiteDirs:    pythonSiteDirs,
		SystemDirs:  []string{"/usr/local/lib/go-xla"},
		ToolkitDirs: systemToolkits(),
		HasGPU:      hasNVIDIAGPU(),
	}
	for _, d := range filepath.SplitList(os.Getenv(PluginPathEnv)) {
		if d != "" {
			s.LibraryPath = append(s.LibraryPath, d)
		}
	}
	if dir, err := os.UserCacheDir(); err == nil {
		s.CacheDir = filepath.Join(dir, "fewstep", "plugins")
	}
	if home, err := os.UserHomeDir(); err == nil {
		s.SystemDirs = slices.Insert(s.SystemDirs, 0, filepath.Join(home, ".local", "lib", "go-xla"))
	}
	return s
}

// First is the plugin that Open tries first for a choice; false = it tries none.
func (s *Search) First(choice string) (Candidate, bool) {
	kinds := []string{choice}
	if choice == Auto || choice == "" {
		kinds = []string{CPU}
		if s.HasGPU {
			kinds = []string{CUDA, CPU}
		}
	}
	for _, kind := range kinds {
		if found := s.Candidates(kind); len(found) > 0 {
			return found[0], true
		}
	}
	return Candidate{}, false
}

// Candidates lists the plugins of a kind (CUDA or CPU) in the order in which they are to be tried.
// Files that do not exist or that cannot be told to be of that kind are left out.
func (s *Search) Candidates(kind string) []Candidate {
	var found []Candidate
	seen := map[string]bool{}
	add := func(path, source string) {
		if KindOfPlugin(path) != kind {
			return
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return
		}
		// The file is loaded under its resolved name, since the CUDA plugin finds its libraries relative to that.
		if real, err := filepath.EvalSymlinks(path); err == nil && (kind != CUDA || KindOfPlugin(real) == kind) {
			path = real
		}
		if seen[path] {
			return
		}
		seen[path] = true
		c := Candidate{Kind: kind, Path: path, Source: source}
		if kind == CUDA {
			major, roots := CUDAMajor(path), s.cudaRoots(path)
			c.DataDir, c.Triton = s.toolkit(roots, major)
			c.LibDirs = cudaLibDirs(roots, major)
			if lib := filepath.Join(c.DataDir, "lib64"); c.DataDir != "" && isDir(lib) {
				c.LibDirs = append(c.LibDirs, lib)
			}
		}
		found = append(found, c)
	}
	addFolder := func(dir, source string) {
		for _, pattern := range []string{"pjrt_c_api_*_plugin.so", "libpjrt_cpu.so", "xla_cuda_plugin.so"} {
			files, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, f := range files {
				add(f, source)
			}
		}
	}
	if s.PluginFile != "" {
		add(s.PluginFile, PluginEnv)
	}
	for _, d := range s.LibraryPath {
		addFolder(d, PluginPathEnv)
	}
	if kind == CUDA {
		for _, site := range s.sites() {
			for _, name := range []string{"xla_cuda13", "xla_cuda12"} {
				addFolder(filepath.Join(site, "jax_plugins", name), "python packages")
			}
		}
	}
	if s.CacheDir != "" {
		dirs, _ := filepath.Glob(filepath.Join(s.CacheDir, "*"))
		for _, d := range dirs {
			addFolder(d, "cache folder")
		}
	}
	for _, d := range s.SystemDirs {
		addFolder(d, "system folder")
	}
	return found
}

func (s *Search) sites() []string {
	if !s.asked && s.SiteDirs != nil {
		s.siteDirs = s.SiteDirs()
	}
	s.asked = true
	return s.siteDirs
}

// KindOfPlugin reads CUDA or CPU from a plugin's file name; "" when the name tells neither.
func KindOfPlugin(path string) string {
	name := strings.ToLower(filepath.Base(path))
	switch {
	case !strings.HasSuffix(name, ".so") && !strings.HasSuffix(name, ".dylib"):
		return ""
	case strings.Contains(name, "cuda"), strings.Contains(name, "gpu"):
		return CUDA
	case strings.Contains(name, "cpu"):
		return CPU
	}
	return ""
}

// pythonSiteDirs asks Python for the folders in which packages live.
// A missing Python is no error: there are then no packages.
func pythonSiteDirs() []string {
	const ask = `import json, site, sys, sysconfig
dirs = list(sys.path) + [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
try:
    dirs += site.getsitepackages() + [site.getusersitepackages()]
except AttributeError:
    pass
print(json.dumps([d for d in dirs if d]))`
	pythons := []string{os.Getenv(PythonEnv)}
	if venv := os.Getenv("VIRTUAL_ENV"); venv != "" {
		pythons = append(pythons, filepath.Join(venv, "bin", "python3"))
	}
	pythons = append(pythons, "python3", "python")
	var dirs []string
	asked := map[string]bool{}
	for _, python := range pythons {
		if python == "" {
			continue
		}
		path, err := exec.LookPath(python)
		if err != nil || asked[path] {
			continue
		}
		asked[path] = true
		ctx, cancel := context.WithTimeout(context.Background(), pythonDeadline)
		out, err := exec.CommandContext(ctx, path, "-I", "-c", ask).Output()
		if err != nil {
			// -I hides PYTHONPATH and the user's folder; an interpreter that refuses it is asked without.
			out, err = exec.CommandContext(ctx, path, "-c", ask).Output()
		}
		cancel()
		var answer []string
		if err != nil || json.Unmarshal(out, &answer) != nil {
			continue
		}
		for _, d := range append(filepath.SplitList(os.Getenv("PYTHONPATH")), answer...) {
			if d != "" && !slices.Contains(dirs, d) {
				dirs = append(dirs, d)
			}
		}
	}
	return dirs
}

// GPUs is the number of NVIDIA GPUs that this process may use: those that the driver tells of, or as many of them as
// CUDA_VISIBLE_DEVICES names; 0 where there is no driver.
func GPUs() int {
	files, _ := filepath.Glob("/proc/driver/nvidia/gpus/*")
	list, given := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	if !given {
		return len(files)
	}
	return visible(list, len(files))
}

// visible counts the GPUs that a value of CUDA_VISIBLE_DEVICES names, of a number that there are. As in CUDA, the list ends at
// the first entry that is neither the index of one nor a name.
func visible(list string, of int) (n int) {
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		i, err := strconv.Atoi(entry)
		named := strings.HasPrefix(entry, "GPU-") || strings.HasPrefix(entry, "MIG-")
		if n == of || err != nil && !named || err == nil && (i < 0 || i >= of) {
			break
		}
		n++
	}
	return n
}

// hasNVIDIAGPU looks for the device files of NVIDIA's driver (or of WSL's).
func hasNVIDIAGPU() bool {
	if runtime.GOOS != "linux" {
		return false
	}
	for _, pattern := range []string{"/dev/nvidia[0-9]*", "/dev/nvidiactl", "/proc/driver/nvidia/gpus/*", "/dev/dxg"} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			return true
		}
	}
	return false
}
