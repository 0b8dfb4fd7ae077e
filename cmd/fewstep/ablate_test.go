package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fewstep/eval/ablation/series"
	"fewstep/train/tinypipeline"
)

// An ablation that is stopped in the middle goes on; a row that fails costs the others nothing and is tried again last; the
// page of the small copies is the page of the runs.
func TestAblationIsWalked(t *testing.T) {
	if testing.Short() {
		t.Skip("walks several ladders")
	}
	home := t.TempDir()
	if _, err := tinypipeline.Write(home, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"rows/late.yaml":   "extends: ../recipe.yaml\nname: late\nstages: {\"1\": {phases: {full-uncond: {lr: 2e-3}}}}\n",
		"rows/broken.yaml": "extends: ../recipe.yaml\nname: broken\nstages: {\"1\": {phases: {full-cond: {lr: 1e30}}}}\n",
		"list.yaml":        "main: recipe.yaml\nrows: rows\nruns:\n  - {recipe: main, seed: 1}\n  - {recipe: broken, seed: 1}\n  - {recipe: late, seed: 1}\n",
	} {
		path := filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	list, dir := filepath.Join(home, "list.yaml"), filepath.Join(home, "runs")

	// First call: stopped while the main run trains.
	s, err := series.Read(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	never := time.Now().Add(time.Hour)
	outcomes, err := s.Walk(ctx, series.Options{Dir: dir, Slots: slots(nil, 1), Stop: never, Kill: never, Say: func(text string) { t.Log(text) },
		Args: []string{"--backend", "go"}, Every: 50 * time.Millisecond,
		Start: func(j series.Job) *exec.Cmd {
			cmd, out := fewstep(t, j.Args...)
			go func() {
				waitForLines(t, cmd, out, filepath.Join(dir, "recipe-1", "stats.jsonl"), 3)
				cancel()
			}()
			return cmd
		}})
	if !errors.Is(err, context.Canceled) || len(outcomes) != 3 || outcomes[0].State != series.Stopped || outcomes[1].State != series.Waiting || outcomes[2].State != series.Waiting {
		t.Fatalf("%+v, %v", outcomes, err)
	}

	// Second call: to the end, but for the row that fails.
	ablate := func(code int, more ...string) string {
		cmd, out := fewstep(t, append([]string{"ablate", list, "--dir", dir, "--backend", "go", "--side-by-side", "2"}, more...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended(t, cmd, out, code)
		return out.String()
	}
	out := ablate(exitFailure)
	for _, want := range []string{"broken-1 begins on this machine, with recipe-1 up to 1/full-cond", "late-1 begins on this machine, with recipe-1 up to 1/full-uncond",
		"failed: broken-1", "is NaN", "acceptance done"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "page", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| tiny | 1 seed (1) |", "| late | 1 seed (1) |", "### late: ", "stages.1.phases.full-uncond.lr: 0.001 → 0.002", "the row begins behind 16step",
		"criteria of its acceptance test are not met", "## Targets", "![1 network call", "the 16step student without further training"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q on the page\n%s", want, page)
		}
	}

	// Third call: what failed is all that is left, and fails again. Who lets runs share a GPU is told of the service without
	// which they take turns, until it is there.
	pipe := t.TempDir()
	t.Setenv("CUDA_MPS_PIPE_DIRECTORY", pipe)
	again := ablate(exitFailure, "--gpus", "0")
	if strings.Contains(again, "late-1 begins") || !strings.Contains(again, "broken-1 begins on GPU 0") || !strings.Contains(again, "nvidia-cuda-mps-control -d") {
		t.Errorf("third call:\n%s", again)
	}
	if err := os.WriteFile(filepath.Join(pipe, "control"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if again := ablate(exitFailure, "--gpus", "0"); !strings.Contains(again, "broken-1 begins on GPU 0") || strings.Contains(again, "nvidia-cuda-mps-control") {
		t.Errorf("fourth call:\n%s", again)
	}

	// What is small says the same.
	copied := filepath.Join(home, "copied")
	if out, errs, code := runCommand(t, "compare", filepath.Join(dir, "small", "recipe-1"), filepath.Join(dir, "small", "late-1"), "--page", copied, "--acceptance", filepath.Join(dir, "acceptance")); code != exitOK || out != "" {
		t.Fatalf("code %d, %s%s", code, out, errs)
	}
	same := func(dir string) map[string]string { return files(t, dir, nil) }
	sameFiles(t, same(filepath.Join(dir, "page")), same(copied))
	if names, err := filepath.Glob(filepath.Join(dir, "small", "*", "*", "*.safetensors")); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestAblateRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--minutes", "0.5"}, "--minutes 0.5: give 0, or more than 0.8"},
		{[]string{"--side-by-side", "0"}, "--side-by-side 0: give 1 or more"},
		{nil, "none.yaml"},
	} {
		args := append([]string{"ablate", "none.yaml", "--dir", t.TempDir()}, c.args...)
		if _, errs, code := runCommand(t, args...); code != exitUsage || !strings.Contains(errs, c.want) {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}
