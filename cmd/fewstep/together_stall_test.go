package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fewstep/train/tinypipeline"
)

// A rank lives while its training hangs, in a file system that does not answer: a FIFO that nobody writes takes the place of every
// image that it is to read. All ranks end by its name within --stall-timeout and a little; started again, they go on.
func TestRankStandsStill(t *testing.T) {
	if testing.Short() {
		t.Skip("trains until a rank stands still")
	}
	recipe := tinyRecipe(t, "stages:\n  - {name: \"8\", teacher_steps: 16, phases: [{name: lora-cond, samples: 400000, lr: 3e-4}]}\n")
	raw, err := os.ReadFile(recipe)
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte("source: images.parquet"), []byte("source: images"), 1)
	if err := os.WriteFile(recipe, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	records, err := tinypipeline.Records()
	if err != nil {
		t.Fatal(err)
	}
	images := filepath.Join(filepath.Dir(recipe), "images")
	if err := os.Mkdir(images, 0o777); err != nil {
		t.Fatal(err)
	}
	for i, r := range records[:32] {
		for ext, content := range map[string][]byte{"png": r.Image, "txt": []byte(r.Caption)} {
			if err := os.WriteFile(filepath.Join(images, fmt.Sprintf("%03d.%s", i, ext)), content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	of1 := t.TempDir() // what rank 1 sees: the same files by other names
	if err := os.Mkdir(filepath.Join(of1, "images"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(filepath.Dir(recipe), "tinymodel"), filepath.Join(of1, "tinymodel")); err != nil {
		t.Fatal(err)
	}
	link := func(path string) {
		t.Helper()
		rel, _ := filepath.Rel(filepath.Dir(recipe), path)
		to := filepath.Join(of1, rel)
		os.Remove(to)
		if err := os.Link(path, to); err != nil {
			t.Fatal(err)
		}
	}
	link(recipe)
	all, _ := filepath.Glob(filepath.Join(images, "*"))
	for _, path := range all {
		link(path)
	}

	dir := filepath.Join(t.TempDir(), "run")
	stats := filepath.Join(dir, "stats.jsonl")
	s := &shared{filepath.Base(recipe)}
	const limit = 10 * time.Second
	run := func() *ranks {
		return startRanks(t, 2, []string{"0:+=" + filepath.Dir(recipe), "1:+=" + of1},
			s.args(dir, "--stall-timeout", limit.String(), "--set", "data.encode_ahead=0", "--set", "train.checkpoint_samples=40")...)
	}
	r := run()
	waitForLines(t, r.cmds[0], r.errs[0], stats, 15)
	for i := range 32 {
		image := filepath.Join(of1, "images", fmt.Sprintf("%03d.png", i))
		if err := syscall.Mkfifo(image+".fifo", 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(image+".fifo", image); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	r.ended(t, exitLost)
	if took := time.Since(start); took > limit+30*time.Second {
		t.Errorf("the ranks ended after %v", took)
	}
	for rank := range 2 {
		if told := r.errs[rank].String(); !strings.Contains(told, "rank 1 (") || !strings.Contains(told, "): stands still: it does not come to \"sum ") || !strings.Contains(told, "hint: start all ranks again") {
			t.Errorf("rank %d: %s", rank, told)
		}
	}

	for i := range 32 {
		link(filepath.Join(images, fmt.Sprintf("%03d.png", i)))
	}
	before, _ := os.ReadFile(stats)
	r = run()
	waitForLines(t, r.cmds[0], r.errs[0], stats, bytes.Count(before, []byte("\n"))+3)
	if err := r.cmds[1].Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.ended(t, exitInterrupted)
	if out, errs, code := runCommand(t, "check", dir); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}
}
