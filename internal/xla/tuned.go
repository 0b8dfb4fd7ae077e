package xla

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"

	"fewstep/internal/atomicfile"
)

// XLA tries out several kernels for each product, convolution and fusion when it compiles for a GPU, one after the other
// on the device. For SDXL that is nearly all of the time that compiling takes, so its results are kept, in three ways:
//
//   - A folder beside the compiled programs holds one small file per fusion (xla_gpu_per_fusion_autotune_cache_dir):
//     programs share what was found, and so do runs with other recipes, whose programs differ but whose products do not.
//   - Results for SDXL's steps on the cards that we had come with the binary and are given to XLA as one file
//     (xla_gpu_load_autotune_results_from). XLA takes a result only for the same kind of device, the same fusion and
//     the same versions of its code generators; everything else is tried out as before.
//   - What is tried out is timed on memory as it is (xla_gpu_autotune_level 1) rather than on memory that is filled
//     before and checked after each try, which takes three times as long and chooses no faster kernels
//     (train/bench/README.md).
//
// Flags of the user's own XLA_FLAGS stay as they are.

// shippedTuned is XLA's AutotuneCache as text, compressed. scripts/tuned.py writes it anew, with what it holds and
// what the card and plugin at hand add.
//
//go:embed tuned.textproto.gz
var shippedTuned []byte

// The plugin whose results come with the binary, jax-cuda13-pjrt 0.11.2, by its wheel's name or its size in bytes. Others
// are not given the file: an older XLA stops at a text that it cannot read.
const (
	tunedWheel = "jax_cuda13_pjrt-0.11.2.dist-info"
	tunedSize  = 411465856
)

// tunedFor says whether the results that come with the binary are a plugin's.
func tunedFor(plugin string) bool {
	if info, err := os.Stat(plugin); err == nil && info.Size() == tunedSize {
		return true
	}
	site := filepath.Dir(filepath.Dir(filepath.Dir(plugin))) // of …/jax_plugins/xla_cuda13/xla_cuda_plugin.so
	info, err := os.Stat(filepath.Join(site, tunedWheel))
	return err == nil && info.IsDir()
}

// tunedFlags gives the flags with which XLA keeps what it tried out. programs is the folder of compiled programs;
// "off" keeps nothing and gives only what needs no folder. What cannot be done is told in a note: it costs time only.
func tunedFlags(plugin, present, programs string) (flags []string, note string) {
	missing := func(name string) bool { return !strings.Contains(present, "--"+name) }
	if missing("xla_gpu_autotune_level") {
		flags = append(flags, "--xla_gpu_autotune_level=1")
	}
	if programs == "off" {
		return flags, ""
	}
	dir := filepath.Join(programs, "tuned")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return flags, "kernels are tried out anew by each process: " + err.Error()
	}
	if name := "xla_gpu_per_fusion_autotune_cache_dir"; missing(name) {
		flags = append(flags, "--"+name+"="+dir)
	}
	if name := "xla_gpu_load_autotune_results_from"; missing(name) && tunedFor(plugin) {
		file, err := unpackTuned(dir)
		if err != nil {
			return flags, "kernels chosen beforehand are not used: " + err.Error()
		}
		flags = append(flags, "--"+name+"="+file)
	}
	return flags, ""
}

// unpackTuned writes the results that come with the binary into a folder, once, and gives the file's path. The file is
// named by its content.
func unpackTuned(dir string) (string, error) {
	z, err := gzip.NewReader(bytes.NewReader(shippedTuned))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	path := filepath.Join(dir, "shipped-"+hex.EncodeToString(sum[:8])+".textproto")
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(text)) {
		return path, nil
	}
	return path, atomicfile.WriteBytes(path, text)
}

// withoutPlaces takes the flags that name files and folders out of a list: they do not change a program. What XLA found
// there does, as every tuning may, within rounding.
func withoutPlaces(flags string) string {
	var kept []string
	for _, f := range strings.Fields(flags) {
		name, _, _ := strings.Cut(f, "=")
		switch name {
		case "--xla_gpu_cuda_data_dir", "--xla_gpu_per_fusion_autotune_cache_dir", "--xla_gpu_load_autotune_results_from",
			"--xla_gpu_dump_autotune_results_to":
		default:
			kept = append(kept, f)
		}
	}
	return strings.Join(kept, " ")
}
