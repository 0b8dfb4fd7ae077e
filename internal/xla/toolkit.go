package xla

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// XLA needs two files of the CUDA toolkit while it compiles: libdevice (exp, log, tanh, …) and the assembler ptxas.
// The wheels nvidia-cuda-nvcc and nvidia-nvvm bring them, an installed toolkit does, and Triton (which comes with
// PyTorch) has copies of its own in other places.
var (
	libdeviceFile = filepath.Join("nvvm", "libdevice", "libdevice.10.bc")
	ptxasFile     = filepath.Join("bin", "ptxas")
)

// systemToolkits lists where CUDA toolkits lie outside of Python packages.
func systemToolkits() []string {
	dirs := []string{os.Getenv("CUDA_HOME"), os.Getenv("CUDA_PATH")}
	for _, program := range []string{"ptxas", "nvcc"} {
		if path, err := exec.LookPath(program); err == nil {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				dirs = append(dirs, filepath.Dir(filepath.Dir(real)))
			}
		}
	}
	versions, _ := filepath.Glob("/usr/local/cuda-1*")
	dirs = append(dirs, "/usr/local/cuda")
	dirs = append(dirs, versions...)
	return append(dirs, "/opt/cuda", "/usr/lib/cuda")
}

// toolkit chooses the CUDA toolkit folder: the first with both files, else the first with libdevice. Where there is
// none, triton is the folder of Triton's copies, and dir the first folder that is there at all.
func (s *Search) toolkit(roots []string, major int) (dir, triton string) {
	var dirs []string
	for _, root := range roots {
		dirs = append(dirs, filepath.Join(root, fmt.Sprintf("cu%d", major)), filepath.Join(root, "cuda_nvcc"))
	}
	dirs = append(dirs, s.ToolkitDirs...)
	var withLibdevice, anyDir string
	for _, d := range dirs {
		switch {
		case d == "" || !isDir(d):
			continue
		case isFile(filepath.Join(d, libdeviceFile)) && isFile(filepath.Join(d, ptxasFile)):
			return d, ""
		case isFile(filepath.Join(d, libdeviceFile)) && withLibdevice == "":
			withLibdevice = d
		case anyDir == "":
			anyDir = d
		}
	}
	if withLibdevice != "" {
		return withLibdevice, ""
	}
	for _, site := range s.sites() {
		t := filepath.Join(site, "triton", "backends", "nvidia")
		if isFile(filepath.Join(t, "lib", "libdevice.10.bc")) {
			return anyDir, t
		}
	}
	return anyDir, ""
}

// toolkitFolder is the folder to hand to XLA. Where only Triton has the files, it is made of links to them in the
// user's cache folder. The error, a clause, tells what XLA will lack; the folder can be of use all the same.
func (c Candidate) toolkitFolder() (string, error) {
	if c.Triton == "" {
		if c.DataDir == "" {
			return "", fmt.Errorf("no CUDA toolkit found (XLA needs its ptxas and libdevice)")
		}
		if !isFile(filepath.Join(c.DataDir, libdeviceFile)) {
			return c.DataDir, fmt.Errorf("the CUDA toolkit folder %s holds no %s", c.DataDir, libdeviceFile)
		}
		return c.DataDir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return c.DataDir, fmt.Errorf("no folder for links to Triton's libdevice: %v", err)
	}
	dir := filepath.Join(cache, "fewstep", fmt.Sprintf("cuda-%.8x", sha256.Sum256([]byte(c.Triton))))
	for link, target := range map[string]string{
		libdeviceFile: filepath.Join(c.Triton, "lib", "libdevice.10.bc"),
		ptxasFile:     filepath.Join(c.Triton, "bin", "ptxas"),
	} {
		if err := placeLink(filepath.Join(dir, link), target); err != nil {
			return c.DataDir, fmt.Errorf("no link to Triton's %s: %v", filepath.Base(target), err)
		}
	}
	return dir, nil
}

// placeLink makes a symbolic link unless it is there. Several processes may do so at once.
func placeLink(link, target string) error {
	if found, err := os.Readlink(link); err == nil && found == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	temporary := fmt.Sprintf("%s.%d", link, os.Getpid())
	os.Remove(temporary)
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	return os.Rename(temporary, link)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
