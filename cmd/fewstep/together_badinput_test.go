package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fewstep/data"
	"fewstep/train/tinypipeline"
)

// Ranks that were not started alike are refused, on every one by the same sentence with the name of the rank, before there is a
// run directory.
func TestRanksRefused(t *testing.T) {
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	others := t.TempDir()
	program := filepath.Join(others, "fewstep")
	longer(t, self, program)
	plugins := []string{filepath.Join(others, "0", "pjrt_c_api_cpu_plugin.so"), filepath.Join(others, "1", "pjrt_c_api_cpu_plugin.so")}
	for rank, path := range plugins { // they are refused before one is opened
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, fmt.Appendf(nil, "plugin %d", rank), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		more []string
		code int
		want []string
	}{
		"another recipe":       {[]string{"1:+--set", "1:+train.ema=0.5"}, exitRefused, []string{"the recipe differs: rank 0 (", "rank 1 ("}},
		"another command line": {[]string{"1:+--until", "1:+8"}, exitRefused, []string{"the command line differs: rank 0 (", "--until 8"}},
		"another binary":       {[]string{"1:@" + program}, exitRefused, []string{"fewstep's binary differs: rank 0 (", "rank 1 ("}},
		"another plugin": {[]string{"0:+--backend", "0:+cpu", "1:+--backend", "1:+cpu", "0:FEWSTEP_PJRT_PLUGIN=" + plugins[0], "1:FEWSTEP_PJRT_PLUGIN=" + plugins[1]}, exitRefused,
			[]string{"the plugin differs: rank 0 (", "rank 1 ("}},
		"other flags of XLA":  {[]string{"1:XLA_FLAGS=--xla_gpu_deterministic_ops=true"}, exitRefused, []string{"XLA_FLAGS differs"}},
		"no recipe on rank 1": {[]string{"1:+--set", "1:+train.bach=3"}, exitUsage, []string{"rank 1 (", "train.bach"}},
		"another rank count":  {[]string{"1:WORLD_SIZE=3"}, exitUsage, []string{"rank 1 (", "says that there are 3 nodes"}},
		"two rank 0s":         {[]string{"1:RANK=0"}, exitUsage, []string{"rank 0 (", "is there twice"}},
		"a batch of 3":        {[]string{"0:+--set", "0:+train.batch=3", "1:+--set", "1:+train.batch=3"}, exitUsage, []string{"rank ", "train.batch is 3, and 2 devices"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			r := startRanks(t, 2, c.more, "run", recipe, "--backend", "go", "--dir", dir, "--set", "train.batch=4")
			codes := r.wait()
			for rank, code := range codes {
				told := r.errs[rank].String()
				for _, want := range c.want {
					if code != c.code || !strings.Contains(told, want) {
						t.Errorf("rank %d: code %d, want %d and %q\n%s", rank, code, c.code, want, told)
					}
				}
				if n := strings.Count(told, "fewstep: ") - strings.Count(told, "fewstep: hint: "); n != 1 {
					t.Errorf("rank %d tells %d errors:\n%s", rank, n, told)
				}
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("a run directory was made")
			}
		})
	}

	t.Run("unequal numbers of GPUs", func(t *testing.T) {
		if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
			t.Skip("a driver's files cannot be stood in for here: ", err)
		}
		driver := "!mount -t tmpfs none /proc/driver; mkdir -p /proc/driver/nvidia/gpus/0000:0{1,2,3}:00.0"
		for hidden, counts := range map[string][2]int{"": {3, 3}, "0,1": {3, 2}, "2": {3, 1}, "7": {3, 0}} {
			dir := filepath.Join(t.TempDir(), "run")
			more := []string{"0:" + driver, "1:" + driver, "0:+--set", "0:+train.batch=3", "1:+--set", "1:+train.batch=3"}
			if hidden != "" {
				more = append(more, "1:CUDA_VISIBLE_DEVICES="+hidden)
			}
			want := []string{"the number of GPUs differs: rank 0 (", fmt.Sprintf(") has %d, rank 1 (", counts[0]), fmt.Sprintf(") has %d", counts[1]), "hint: "}
			code := exitRefused
			if counts[0] == counts[1] { // refused for something else, which is looked at later
				want, code = []string{"train.batch is 3"}, exitUsage
			}
			r := startRanks(t, 2, more, "run", recipe, "--backend", "go", "--dir", dir)
			for rank, got := range r.wait() {
				told := strings.ReplaceAll(r.errs[rank].String(), ") has none", ") has 0")
				for _, w := range want {
					if got != code || !strings.Contains(told, w) {
						t.Errorf("CUDA_VISIBLE_DEVICES=%s: rank %d: code %d, want %d and %q\n%s", hidden, rank, got, code, w, told)
					}
				}
			}
		}
	})

	for what, change := range map[string]func(t *testing.T, place string){
		"the model's files": func(t *testing.T, place string) {
			found, _ := filepath.Glob(filepath.Join(place, "tinymodel", "unet", "*.safetensors"))
			if len(found) != 1 {
				t.Fatal(found)
			}
			flip(t, found[0])
		},
		"the data set": func(t *testing.T, place string) {
			records, err := tinypipeline.Records()
			if err == nil {
				err = data.WriteParquet(filepath.Join(place, "images.parquet"), records[1:])
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run("another one of "+what, func(t *testing.T) {
			places := []string{t.TempDir(), t.TempDir()}
			for _, to := range places {
				if err := os.CopyFS(to, os.DirFS(filepath.Dir(recipe))); err != nil {
					t.Fatal(err)
				}
			}
			change(t, places[1])
			dir := filepath.Join(t.TempDir(), "run")
			r := startRanks(t, 2, []string{"0:+=" + places[0], "1:+=" + places[1]}, "run", "recipe.yaml", "--backend", "go", "--dir", dir)
			for rank, code := range r.wait() {
				if code != exitRefused || !strings.Contains(r.errs[rank].String(), what+" differs: rank 0 (") {
					t.Errorf("rank %d: code %d\n%s", rank, code, r.errs[rank])
				}
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("a run directory was made")
			}
		})
	}

	t.Run("nobody there", func(t *testing.T) {
		t.Setenv("FEWSTEP_SECRET", "of these tests, and long")
		dir := filepath.Join(t.TempDir(), "run")
		_, errs, code := runCommand(t, "run", recipe, "--backend", "go", "--dir", dir, "--nodes", "2", "--rank", "1", "--rendezvous", "127.0.0.1:1", "--join-timeout", "300ms")
		if code != exitLost || !strings.Contains(errs, "rank 1 (") || !strings.Contains(errs, "cannot be reached") {
			t.Errorf("code %d, %s", code, errs)
		}
	})
}

// longer copies a program and appends a byte, which no loader minds.
func longer(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, append(raw, 0), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A loss that is not finite ends all ranks before the same update, with its samples.
func TestTogetherNotFinite(t *testing.T) {
	s := newShared(t)
	dir := filepath.Join(t.TempDir(), "run")
	r := startRanks(t, 2, nil, s.args(dir, "--set", "stages.8.phases.lora-cond.lr=1e30")...)
	for rank, code := range r.wait() {
		told := r.errs[rank].String()
		if code != exitNonFinite || !strings.Contains(told, "stage 8, phase lora-cond") || !strings.Contains(told, "image-") {
			t.Errorf("rank %d: code %d\n%s", rank, code, told)
		}
	}
	if out, errs, code := runCommand(t, "check", dir); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}
}

// A disk that one rank cannot write ends all by its name, and nothing of earlier checkpoints is lost. A checkpoint that lacks a
// rank's part is passed over; a run directory has one writer.
func TestTogetherOnBadDisks(t *testing.T) {
	s := newShared(t)
	dir := filepath.Join(t.TempDir(), "run")
	r := startRanks(t, 2, nil, s.args(dir)...)
	waitForLines(t, r.cmds[0], r.errs[0], filepath.Join(dir, "stats.jsonl"), 6)

	_, errs, code := runCommand(t, s.args(dir)...)
	if code != exitFailure || !strings.Contains(errs, "is in use by process") {
		t.Errorf("a second writer: code %d, %s", code, errs)
	}

	small := unix.Rlimit{Cur: 2000, Max: 2000}
	if err := unix.Prlimit(r.cmds[1].Process.Pid, unix.RLIMIT_FSIZE, &small, nil); err != nil {
		t.Fatal(err)
	}
	codes := r.wait()
	for rank := range 2 {
		if told := r.errs[rank].String(); codes[rank] != exitFailure || !strings.Contains(told, "rank 1 (") || !strings.Contains(told, "checkpoint ") || !strings.Contains(told, "file too large") {
			t.Errorf("rank %d: code %d\n%s", rank, codes[rank], told)
		}
	}
	if out, errs, code := runCommand(t, "check", dir); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}

	stats := filepath.Join(dir, "stats.jsonl")
	before, _ := os.ReadFile(stats)
	r = startRanks(t, 2, nil, s.args(dir)...)
	waitForLines(t, r.cmds[0], r.errs[0], stats, bytes.Count(before, []byte("\n"))+1)
	if err := unix.Prlimit(r.cmds[0].Process.Pid, unix.RLIMIT_FSIZE, &small, nil); err != nil {
		t.Fatal(err)
	}
	codes = r.wait()
	for rank := range 2 {
		if told := r.errs[rank].String(); codes[rank] != exitFailure || !strings.Contains(told, "rank 0 (") || !strings.Contains(told, "file too large") {
			t.Errorf("rank 0's disk is full: rank %d: code %d\n%s", rank, codes[rank], told)
		}
	}
	if out, errs, code := runCommand(t, "check", dir); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}

	saved, _ := filepath.Glob(filepath.Join(dir, "stages", "8", "lora-cond", "checkpoints", "*", "manifest.json"))
	if len(saved) < 2 {
		t.Fatalf("checkpoints %v", saved)
	}
	slices.Sort(saved)
	if err := os.Remove(filepath.Join(filepath.Dir(saved[len(saved)-1]), "student-00002-of-00002.safetensors")); err != nil {
		t.Fatal(err)
	}
	r = startRanks(t, 2, nil, s.args(dir)...)
	r.ended(t, exitOK)
	if told := r.errs[0].String(); !strings.Contains(told, "checkpoint passed over") || !strings.Contains(told, "student-00002-of-00002.safetensors") {
		t.Errorf("%s", told)
	}
	straight := filepath.Join(t.TempDir(), "straight")
	startRanks(t, 2, nil, s.args(straight)...).ended(t, exitOK)
	nearly(t, straight, dir, 0)

	// What rank 0 alone finds out is every rank's error too.
	r = startRanks(t, 2, nil, s.args(straight, "--set", "seed=5")...)
	codes = r.wait()
	for rank := range 2 {
		if told := r.errs[rank].String(); codes[rank] != exitRefused || !strings.Contains(told, "rank 0 (") || !strings.Contains(told, "seed") {
			t.Errorf("rank %d: code %d\n%s", rank, codes[rank], told)
		}
	}
}
