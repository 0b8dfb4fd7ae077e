package xla

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// touch makes empty files below root and returns root without symbolic links in it.
func touch(t *testing.T, root string, names ...string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// The tree is that of the wheels jax-cuda13-pjrt 0.11.2 and nvidia-*, beside left-overs of CUDA 12.
func TestCUDACandidateFromPythonPackages(t *testing.T) {
	site := touch(t, t.TempDir(),
		"jax_plugins/xla_cuda13/xla_cuda_plugin.so",
		"nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcublas.so.13", "nvidia/cu13/lib/libcublasLt.so.13",
		"nvidia/cu13/lib/libcusparse.so.12", "nvidia/cu13/bin/ptxas", "nvidia/cu13/nvvm/libdevice/libdevice.10.bc",
		"nvidia/cu12/lib/libcudart.so.12",
		"nvidia/cusparse/lib/libcusparse.so.12",
		"nvidia/cudnn/lib/libcudnn.so.9", "nvidia/nccl/lib/libnccl.so.2", "nvidia/nvshmem/lib/libnvshmem_host.so.3",
		"nvidia/cuda_runtime/deep/lib/x.so")
	search := &Search{SiteDirs: func() []string { return []string{t.TempDir(), site} }}
	got := search.Candidates(CUDA)
	if len(got) != 1 {
		t.Fatalf("%d candidates: %+v", len(got), got)
	}
	c := got[0]
	if want := filepath.Join(site, "jax_plugins/xla_cuda13/xla_cuda_plugin.so"); c.Path != want {
		t.Errorf("path %s, want %s", c.Path, want)
	}
	if want := filepath.Join(site, "nvidia/cu13"); c.DataDir != want {
		t.Errorf("data folder %s, want %s", c.DataDir, want)
	}
	var want []string
	for _, d := range []string{"cu13/lib", "cudnn/lib", "cusparse/lib", "nccl/lib", "nvshmem/lib", "cuda_runtime/deep/lib"} {
		want = append(want, filepath.Join(site, "nvidia", d))
	}
	if !reflect.DeepEqual(c.LibDirs, want) {
		t.Errorf("library folders %q, want %q", c.LibDirs, want)
	}
	files, missing := cudaLibraryFiles(c)
	if text := strings.Join(files, " "); !strings.Contains(text, "cu13/lib/libcusparse.so.12") ||
		!strings.Contains(text, "cudnn/lib/libcudnn.so.9") || strings.Contains(text, "cu12") {
		t.Errorf("libraries %q", files)
	}
	if len(files)+len(missing) != len(cudaSonames[13]) || !strings.Contains(strings.Join(missing, " "), "libcufft.so.12") {
		t.Errorf("libraries %q, missing %q", files, missing)
	}
	if cpu := search.Candidates(CPU); len(cpu) != 0 {
		t.Errorf("a CUDA plugin was taken for a CPU plugin: %+v", cpu)
	}
}

// PyTorch's own set of wheels holds no ptxas and no libdevice: an installed toolkit is taken, else Triton's copies.
func TestToolkitOfPyTorchEnvironment(t *testing.T) {
	root := touch(t, t.TempDir(),
		"site/jax_plugins/xla_cuda13/xla_cuda_plugin.so", "site/nvidia/cu13/lib/libcudart.so.13",
		"site/triton/backends/nvidia/lib/libdevice.10.bc", "site/triton/backends/nvidia/bin/ptxas",
		"cuda/bin/ptxas", "cuda/nvvm/libdevice/libdevice.10.bc", "cuda/lib64/libcupti.so.13")
	site := filepath.Join(root, "site")
	search := &Search{
		SiteDirs:    func() []string { return []string{site} },
		ToolkitDirs: []string{"", filepath.Join(root, "absent"), filepath.Join(root, "cuda")},
	}
	c := search.Candidates(CUDA)[0]
	if c.DataDir != filepath.Join(root, "cuda") || c.Triton != "" {
		t.Errorf("toolkit %q, Triton %q", c.DataDir, c.Triton)
	}
	if want := []string{filepath.Join(site, "nvidia/cu13/lib"), filepath.Join(root, "cuda/lib64")}; !reflect.DeepEqual(c.LibDirs, want) {
		t.Errorf("library folders %q, want %q", c.LibDirs, want)
	}
	if dir, err := c.toolkitFolder(); dir != c.DataDir || err != nil {
		t.Errorf("folder %q, %v", dir, err)
	}

	search.ToolkitDirs = nil
	c = search.Candidates(CUDA)[0]
	if c.DataDir != filepath.Join(site, "nvidia/cu13") || c.Triton != filepath.Join(site, "triton/backends/nvidia") {
		t.Fatalf("toolkit %q, Triton %q", c.DataDir, c.Triton)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for range 2 {
		dir, err := c.toolkitFolder()
		if err != nil || !isFile(filepath.Join(dir, libdeviceFile)) || !isFile(filepath.Join(dir, ptxasFile)) {
			t.Fatalf("folder %q, %v", dir, err)
		}
	}
	c.Triton = ""
	if dir, err := c.toolkitFolder(); dir != c.DataDir || err == nil || !strings.Contains(err.Error(), libdeviceFile) {
		t.Errorf("folder %q, %v", dir, err)
	}
}

func TestCandidateOrder(t *testing.T) {
	root := touch(t, t.TempDir(),
		"mine/pjrt_c_api_cpu_plugin.so",
		"path/pjrt_c_api_cpu_plugin.so",
		"cache/lammps-jax-pjrt-cpu-0.11.2/pjrt_c_api_cpu_plugin.so",
		"cache/google/libpjrt_cpu.so",
		"system/pjrt_c_api_cpu_v0.83.1_plugin.so",
		"system/pjrt_c_api_cuda_plugin.so",
		"cache/readme/pjrt_c_api_cpu_plugin.txt")
	search := &Search{
		PluginFile:  filepath.Join(root, "mine/pjrt_c_api_cpu_plugin.so"),
		LibraryPath: []string{filepath.Join(root, "path"), filepath.Join(root, "mine"), filepath.Join(root, "absent")},
		CacheDir:    filepath.Join(root, "cache"),
		SystemDirs:  []string{filepath.Join(root, "system")},
	}
	var got []string
	for _, c := range search.Candidates(CPU) {
		rel, _ := filepath.Rel(root, c.Path)
		got = append(got, rel+" "+c.Source)
	}
	want := []string{
		"mine/pjrt_c_api_cpu_plugin.so FEWSTEP_PJRT_PLUGIN",
		"path/pjrt_c_api_cpu_plugin.so PJRT_PLUGIN_LIBRARY_PATH",
		"cache/google/libpjrt_cpu.so cache folder",
		"cache/lammps-jax-pjrt-cpu-0.11.2/pjrt_c_api_cpu_plugin.so cache folder",
		"system/pjrt_c_api_cpu_v0.83.1_plugin.so system folder",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("candidates\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if cuda := search.Candidates(CUDA); len(cuda) != 1 || filepath.Base(cuda[0].Path) != "pjrt_c_api_cuda_plugin.so" {
		t.Errorf("CUDA candidates %+v", cuda)
	}
}

func TestKindOfPlugin(t *testing.T) {
	for path, want := range map[string]string{
		"/cuda/pjrt_c_api_cpu_plugin.so":                 CPU,
		"/cpu/jax_plugins/xla_cuda13/xla_cuda_plugin.so": CUDA,
		"/x/pjrt_c_api_gpu_plugin.so":                    CUDA,
		"/x/libpjrt_cpu.so":                              CPU,
		"/x/pjrt_c_api_tpu_plugin.so":                    "",
		"/x/cpu.txt":                                     "",
	} {
		if got := KindOfPlugin(path); got != want {
			t.Errorf("%s: kind %q, want %q", path, got, want)
		}
	}
}

func TestPythonSiteDirs(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho '[\"/a/site-packages\", \"/b\"]'\n"
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv("VIRTUAL_ENV", "")
	t.Setenv("PYTHONPATH", "/p")
	t.Setenv(PythonEnv, "")
	if got, want := pythonSiteDirs(), []string{"/p", "/a/site-packages", "/b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("folders %q, want %q", got, want)
	}
	t.Setenv("PATH", t.TempDir())
	if got := pythonSiteDirs(); got != nil {
		t.Errorf("folders %q without Python", got)
	}
}

func TestVisibleGPUs(t *testing.T) {
	for list, want := range map[string]int{"": 0, "0": 1, "0,1": 2, "1, 0": 2, "-1": 0, "0,-1,1": 1, "0,9,1": 1, "GPU-8f1c,GPU-77aa": 2, "0,1,2,3,4,5": 4, "NoDevFiles": 0} {
		if got := visible(list, 4); got != want {
			t.Errorf("CUDA_VISIBLE_DEVICES=%q of 4 GPUs: %d, want %d", list, got, want)
		}
	}
}
