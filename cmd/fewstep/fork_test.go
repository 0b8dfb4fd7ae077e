package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/train/tinypipeline"
)

// A run that begins with another's first stages ends with the bytes of one that trained them itself, also when the other
// is gone in between.
func TestForkedRunEndsTheSame(t *testing.T) {
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	straight, source, fork := filepath.Join(home, "straight"), filepath.Join(home, "source"), filepath.Join(home, "fork")
	other := []string{"--set", "stages.2.phases.lora-cond.lr=2e-3", "--set", "name=other"}
	run := func(code int, dir string, args ...string) string {
		t.Helper()
		_, errs, got := runCommand(t, append([]string{"run", recipe, "--backend", "go", "--dir", dir}, args...)...)
		if got != code {
			t.Fatalf("%s %v: code %d, want %d\n%s", dir, args, got, code, errs)
		}
		return errs
	}
	run(exitOK, straight, other...)
	run(exitOK, source, "--until", "4")
	again := append(other, "--fork", source, "--from", "2")
	run(exitOK, fork, append(again, "--until", "2")...)
	if err := os.RemoveAll(source); err != nil {
		t.Fatal(err)
	}
	run(exitOK, fork, again...)
	// The report names what was taken over, and checkpoints are numbered from the start of a directory.
	late := func(path string) bool {
		return wallClock(path) || path == "lineage.json" || strings.Contains(path, "/checkpoints/") ||
			slices.Contains([]string{"report/index.html", "report/metrics.json", "report/manifest.json"}, path)
	}
	want := files(t, straight, late)
	for _, name := range []string{"stats.jsonl", "report/metrics.csv", "exports/1step_unet_x0.safetensors", "stages/2/full-uncond/result/student.safetensors"} {
		if want[name] == "" {
			t.Errorf("the run made no %s", name)
		}
	}
	sameFiles(t, want, files(t, fork, late))
	// Where nothing says from where on, it is the first phase that depends on what differs; encodings are not made again.
	short := filepath.Join(home, "short")
	if errs := run(exitOK, short, "--fork", fork, "--set", "name=other", "--set", "stages.2.phases.lora-cond.lr=2e-3", "--set", "stages.1.phases.full-cond.lr=3e-3"); !strings.Contains(errs, `"continues with"=1/full-cond`) || strings.Contains(errs, "encoding") {
		t.Error(errs)
	}
	if out, errs, code := runCommand(t, "check", fork); code != exitOK {
		t.Errorf("the fork is not sound: %s%s", out, errs)
	}
	page, err := os.ReadFile(filepath.Join(fork, "report", "index.html"))
	if err != nil || !strings.Contains(string(page), "everything before 2/lora-cond is its work") {
		t.Errorf("the report does not say what was taken over: %v", err)
	}

	// What is no such fork is refused, in a sentence, and left as it is.
	before := files(t, fork, nil)
	if errs := run(exitRefused, fork, append(other, "--fork", source, "--from", "4")...); !strings.Contains(errs, "not forked from phase 4/lora-cond on") {
		t.Error(errs)
	}
	if errs := run(exitRefused, straight, again...); !strings.Contains(errs, "is a run directory already") {
		t.Error(errs)
	}
	sameFiles(t, before, files(t, fork, nil))
	none := filepath.Join(home, "none")
	for want, args := range map[string][]string{
		"stages.16.phases.mse-lora.lr: 0.001 → 0.003": {"--from", "8", "--set", "stages.16.phases.mse-lora.lr=3e-3"},
		"there is no stage \"9\"":                     {"--from", "9"},
		"nothing before it":                           {"--from", "16"},
		"no phase \"lora\"":                           {"--from", "8/lora"},
	} {
		if errs := run(exitRefused, none, append(args, "--fork", straight)...); !strings.Contains(errs, want) {
			t.Errorf("%v: %s", args, errs)
		}
	}
	if errs := run(exitUsage, none, "--from", "2"); !strings.Contains(errs, "--fork is not there") {
		t.Error(errs)
	}
	if errs := run(exitRefused, none, "--fork", straight, "--set", "seed=12"); !strings.Contains(errs, "differ in what the first phase depends on") {
		t.Error(errs)
	}
	if errs := run(exitRefused, straight, "--fork", straight); !strings.Contains(errs, "began with no other run's results") {
		t.Error(errs)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a refused fork left a directory")
	}
}
