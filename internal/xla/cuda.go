package xla

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cudaSonames are the libraries that XLA's CUDA plugin opens by name while it runs, by CUDA major version,
// dependencies first. Loading them beforehand by path makes the later look-ups succeed without LD_LIBRARY_PATH;
// JAX does the same.
var cudaSonames = map[int][]string{
	13: {
		"libcudart.so.13", "libnvrtc.so.13", "libnvJitLink.so.13", "libcublasLt.so.13", "libcublas.so.13",
		"libcupti.so.13", "libcusparse.so.12", "libcusolver.so.12", "libcufft.so.12",
		"libnccl.so.2", "libnvshmem_host.so.3", "libcudnn.so.9",
	},
	12: {
		"libcudart.so.12", "libnvrtc.so.12", "libnvJitLink.so.12", "libcublasLt.so.12", "libcublas.so.12",
		"libcupti.so.12", "libcusparse.so.12", "libcusolver.so.11", "libcufft.so.11",
		"libnccl.so.2", "libnvshmem_host.so.3", "libcudnn.so.9",
	},
}

// driverDirs are searched for libcuda.so.1 when the loader does not find it: containers and WSL put it there.
var driverDirs = []string{"/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib", "/usr/lib/x86_64-linux-gnu"}

// CUDAMajor is the CUDA version that a plugin was built for, read from the folder of its package
// (xla_cuda12, xla_cuda13); 13 when that does not tell.
func CUDAMajor(plugin string) int {
	if strings.Contains(plugin, "cuda12") {
		return 12
	}
	return 13
}

// cudaRoots are the folders "nvidia" that hold the wheels of NVIDIA's libraries: first those of the package tree
// that the plugin lies in (<site>/jax_plugins/xla_cuda13/xla_cuda_plugin.so), then those of all others.
func (s *Search) cudaRoots(plugin string) []string {
	dir := filepath.Dir(plugin)
	roots := []string{filepath.Join(dir, "..", "..", "nvidia"), filepath.Join(dir, "..", "nvidia"), filepath.Join(dir, "nvidia")}
	for _, site := range s.sites() {
		if root := filepath.Join(site, "nvidia"); !slices.Contains(roots, root) {
			roots = append(roots, root)
		}
	}
	return roots
}

// cudaLibDirs lists the library folders of some roots, in each those of the CUDA version first and those of another
// CUDA version not at all.
func cudaLibDirs(roots []string, major int) (libDirs []string) {
	own := fmt.Sprintf("cu%d", major)
	for _, root := range roots {
		var first, rest []string
		for _, pattern := range []string{filepath.Join(root, "*", "lib"), filepath.Join(root, "*", "*", "lib")} {
			dirs, _ := filepath.Glob(pattern)
			for _, dir := range dirs {
				rel, _ := filepath.Rel(root, dir)
				top, _, _ := strings.Cut(rel, string(filepath.Separator))
				switch {
				case top == own:
					first = append(first, dir)
				case len(top) == 4 && strings.HasPrefix(top, "cu1"): // cu11, cu12, cu13: another toolkit
				default:
					rest = append(rest, dir)
				}
			}
		}
		for _, dir := range append(first, rest...) {
			if !slices.Contains(libDirs, dir) {
				libDirs = append(libDirs, dir)
			}
		}
	}
	return libDirs
}

// cudaLibraryFiles resolves the libraries of a candidate to files, and names those that no folder holds.
func cudaLibraryFiles(c Candidate) (files, missing []string) {
	for _, soname := range cudaSonames[CUDAMajor(c.Path)] {
		i := slices.IndexFunc(c.LibDirs, func(dir string) bool {
			info, err := os.Stat(filepath.Join(dir, soname))
			return err == nil && !info.IsDir()
		})
		if i < 0 {
			missing = append(missing, soname)
			continue
		}
		files = append(files, filepath.Join(c.LibDirs[i], soname))
	}
	return files, missing
}

// MissingLibraries names the NVIDIA libraries that lie in none of the candidate's folders. The system may still
// have them elsewhere. Empty for CPU plugins.
func (c Candidate) MissingLibraries() []string {
	if c.Kind != CUDA {
		return nil
	}
	_, missing := cudaLibraryFiles(c)
	return missing
}

// prepareCUDA sets what the plugin reads from the environment and loads the libraries that it will look up by
// name. It returns notes on what is missing; the plugin itself decides whether it can do without.
func prepareCUDA(c Candidate, programs string) (notes []string) {
	dataDir, err := c.toolkitFolder()
	if err != nil {
		notes = append(notes, err.Error())
	}
	if dataDir != "" {
		setFlag("--xla_gpu_cuda_data_dir", dataDir)
	}
	// Products of one input stay apart: merged, their weights are joined and their result is cut apart in every call, which
	// takes 3 % of SDXL's forward pass.
	setFlag("--xla_gpu_dot_merger_threshold_mb", "0")
	// So do sums over devices, which it would copy into one buffer up to 30 MB: the engine joins those that gain by it.
	setFlag("--xla_gpu_all_reduce_combine_threshold_bytes", "0")
	tuned, note := tunedFlags(c.Path, os.Getenv(flagsEnv), programs)
	if note != "" {
		notes = append(notes, note)
	}
	for _, flag := range tuned {
		name, value, _ := strings.Cut(flag, "=")
		setFlag(name, value)
	}
	if loadLibrary("libcuda.so.1") != nil {
		for _, dir := range driverDirs {
			if loadLibrary(filepath.Join(dir, "libcuda.so.1")) == nil {
				break
			}
		}
	}
	files, missing := cudaLibraryFiles(c)
	for _, f := range files {
		if err := loadLibrary(f); err != nil {
			notes = append(notes, fmt.Sprintf("CUDA library %s does not load: %v", f, err))
		}
	}
	var absent []string
	for _, soname := range missing {
		if loadLibrary(soname) != nil { // the system's own copy, if any
			absent = append(absent, soname)
		}
	}
	if len(absent) > 0 {
		notes = append(notes, "CUDA libraries not found: "+strings.Join(absent, ", "))
	}
	return notes
}
