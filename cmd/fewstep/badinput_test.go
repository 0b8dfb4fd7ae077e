package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fewstep/data"
	"fewstep/train/tinypipeline"
)

// Each bad input of a run gets one clear error, an exit code, and leaves no run directory behind.
func TestRunBadInput(t *testing.T) {
	master := t.TempDir()
	if _, err := tinypipeline.Write(master, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	unet := filepath.Join("tinymodel", "unet", "diffusion_pytorch_model.safetensors")
	edit := func(t *testing.T, path, old, new string) {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(raw, []byte(old)) {
			t.Fatalf("%s does not hold %q", path, old)
		}
		if err := os.WriteFile(path, bytes.Replace(raw, []byte(old), []byte(new), 1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	records := func(t *testing.T, dir string, change func([]data.Record)) {
		t.Helper()
		r, err := tinypipeline.Records()
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		if err := data.WriteParquet(filepath.Join(dir, "images.parquet"), r); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(t *testing.T, path string) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()/2); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		args  []string
		code  int
		want  []string // all of them, in the message
	}{
		"unknown key": {
			spoil: func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, "recipe.yaml"), "checkpoint_samples:", "checkpoint_sampels:")
			},
			code: exitUsage, want: []string{"train.checkpoint_sampels", "did you mean", "checkpoint_samples"},
		},
		"impossible stage order": {
			spoil: func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, "recipe.yaml"), `teacher_steps: 16`, `teacher_steps: 2`)
			},
			code: exitUsage, want: []string{"stages.8.teacher_steps"},
		},
		"missing weights": {
			spoil: func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, unet)); err != nil {
					t.Fatal(err)
				}
			},
			code: exitFailure, want: []string{"unet", "holds no weights"},
		},
		"truncated weights": {
			spoil: func(t *testing.T, dir string) { cut(t, filepath.Join(dir, unet)) },
			code:  exitFailure, want: []string{unet, "truncated"},
		},
		"wrong tensor shape": {
			spoil: func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, "tinymodel", "unet", "config.json"), "    8,\n    16\n", "    12,\n    16\n")
			},
			code: exitFailure, want: []string{"unet", "add_embedding.linear_1.weight", "[32 56]", "[48 56]"},
		},
		"corrupt parquet": {
			spoil: func(t *testing.T, dir string) { cut(t, filepath.Join(dir, "images.parquet")) },
			code:  exitFailure, want: []string{"images.parquet"},
		},
		"undecodable image": {
			spoil: func(t *testing.T, dir string) {
				records(t, dir, func(r []data.Record) { r[3].Image = []byte("GIF89a") })
			},
			code: exitFailure, want: []string{"images.parquet", "rows cannot be used, 0 allowed", "image-3"},
		},
		"empty caption": {
			spoil: func(t *testing.T, dir string) { records(t, dir, func(r []data.Record) { r[5].Caption = "" }) },
			code:  exitFailure, want: []string{"images.parquet", "image-5", "empty caption"},
		},
		"no such stage":   {args: []string{"--until", "5"}, code: exitFailure, want: []string{`no stage "5"`}},
		"unknown backend": {args: []string{"--backend", "tpu"}, code: exitUsage, want: []string{"unknown backend"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			run := filepath.Join(dir, "run")
			args := append([]string{"run", filepath.Join(dir, "recipe.yaml"), "--backend", "go", "--dir", run, "--quiet"}, c.args...)
			out, errs, code := runCommand(t, args...)
			if code != c.code || out != "" {
				t.Errorf("code %d, want %d; stdout %q", code, c.code, out)
			}
			for _, want := range c.want {
				if !strings.Contains(errs, want) {
					t.Errorf("the message lacks %q:\n%s", want, errs)
				}
			}
			if n := strings.Count(errs, "\n"); n > 2 {
				t.Errorf("%d lines instead of a message and a hint:\n%s", n, errs)
			}
			if _, err := os.Stat(run); !os.IsNotExist(err) {
				t.Errorf("a run directory was left behind (%v)", err)
			}
		})
	}
}

// A full disk and a folder without permission are told in one line; what was saved before stays sound.
func TestRunDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk, and giving up permissions, need root")
	}
	dir := t.TempDir()
	recipe, err := tinypipeline.Write(dir, filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("no space", func(t *testing.T) {
		small := filepath.Join(dir, "small")
		if err := os.Mkdir(small, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=512k"); err != nil {
			t.Skipf("cannot mount a small disk here: %v", err)
		}
		defer func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) }()
		run := filepath.Join(small, "run")
		_, errs, code := runCommand(t, "run", recipe, "--backend", "go", "--dir", run, "--quiet")
		if code != exitFailure || !strings.Contains(errs, "no space left on the disk") || !strings.Contains(errs, run) {
			t.Errorf("code %d, %s", code, errs)
		}
		for name := range files(t, run, nil) {
			if strings.HasPrefix(filepath.Base(name), ".fewstep-tmp") {
				t.Errorf("%s was left half-written", name)
			}
		}
		if out, errs, code := runCommand(t, "check", run); code != exitOK {
			t.Errorf("what was saved is not sound: %s%s", out, errs)
		}
	})
	t.Run("no permission", func(t *testing.T) {
		closed, run := stranger(t, dir)
		out, code := run("run", recipe, "--backend", "go", "--dir", filepath.Join(closed, "run"), "--quiet")
		if code != exitFailure || !strings.Contains(string(out), "permission denied") || !strings.Contains(string(out), closed) {
			t.Errorf("code %d, %s", code, out)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
