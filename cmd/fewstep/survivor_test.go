package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/data/images"
	"fewstep/train/tinypipeline"
)

// survivor is a short ladder and a run of it that nothing disturbed: the bytes that every other run of it must end with.
type survivor struct {
	recipe, straight string
	want             map[string]string
}

// latents is the file of encoded images.
var latents = fmt.Sprintf("latents-decoder%d.f32", images.DecoderVersion)

// shortLadder has phases of every kind that hand something on: adapters, a merged model, full weights.
const shortLadder = `stages:
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: {mse-lora: {samples: 4, lr: 1e-3}, mse-full: {samples: 4, lr: 1e-3}}}
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 6, lr: 1e-3}, {name: merge}, {name: full-uncond, samples: 4, lr: 1e-3}]}
`

// tinyRecipe writes the tiny pipeline and its recipe, with these stages.
func tinyRecipe(t *testing.T, stages string) string {
	t.Helper()
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(recipe)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(raw), "stages:\n")
	if err := os.WriteFile(recipe, []byte(head+stages), 0o644); err != nil {
		t.Fatal(err)
	}
	return recipe
}

func newSurvivor(t *testing.T) *survivor {
	t.Helper()
	if testing.Short() {
		t.Skip("walks a ladder many times")
	}
	s := &survivor{recipe: tinyRecipe(t, shortLadder), straight: filepath.Join(t.TempDir(), "straight")}
	s.run(t, s.straight, exitOK)
	s.want = files(t, s.straight, wallClock)
	for _, name := range []string{"exports/8step_unet.safetensors", "report/metrics.csv", "encoded/" + latents} {
		if s.want[name] == "" {
			t.Fatalf("the run made no %s", name)
		}
	}
	return s
}

func (s *survivor) args(dir string, more ...string) []string {
	return append([]string{"run", s.recipe, "--backend", "go", "--dir", dir}, more...)
}

// run runs the ladder, or the rest of it, in a process of its own.
func (s *survivor) run(t *testing.T, dir string, code int, more ...string) string {
	t.Helper()
	cmd, out := fewstep(t, s.args(dir, more...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended(t, cmd, out, code)
	return out.String()
}

// started runs it until the statistics have so many lines; the process is still there.
func (s *survivor) started(t *testing.T, dir string, lines int, prepare func(*exec.Cmd)) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd, out := fewstep(t, s.args(dir)...)
	if prepare != nil {
		prepare(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLines(t, cmd, out, filepath.Join(dir, "stats.jsonl"), lines)
	return cmd, out
}

// copied is a copy of the finished run.
func (s *survivor) copied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(dir, os.DirFS(s.straight)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// same compares a run with the one that nothing disturbed, but for what was set aside.
func (s *survivor) same(t *testing.T, dir string) {
	t.Helper()
	sameFiles(t, s.want, files(t, dir, func(path string) bool { return wallClock(path) || strings.HasPrefix(path, "aside/") }))
	if out, errs, code := runCommand(t, "check", dir); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}
}

// flip changes one byte in the middle of a file, and keeps its size.
func flip(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
}
