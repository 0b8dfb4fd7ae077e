package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fewstep/data"
	"fewstep/train/tinypipeline"
)

// The tiny ladder runs on the pure-Go backend: it needs no plugin and nothing is compiled, which for programs of this
// size is most of the work.

// fewstep is a command line run by this test binary in a process of its own.
func fewstep(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(self)
	cmd.Args = append([]string{"fewstep"}, args...) // TestMain is fewstep under this name
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// ended waits for a command that must end with the code.
func ended(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer, code int) {
	t.Helper()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != code {
		t.Fatalf("%v: exit code %d (%v), want %d\n%s", cmd.Args, cmd.ProcessState.ExitCode(), err, code, out)
	}
}

// files lists what lies below dir, by path, with each file's digest.
func files(t *testing.T, dir string, skip func(path string) bool) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || skip != nil && skip(path) {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, path))
		found[path] = fmt.Sprintf("%x", sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func sameFiles(t *testing.T, want, got map[string]string) {
	t.Helper()
	names := maps.Clone(want)
	maps.Copy(names, got)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch {
		case want[name] == "":
			t.Errorf("%s should not be there", name)
		case got[name] == "":
			t.Errorf("%s is missing", name)
		case want[name] != got[name]:
			t.Errorf("%s differs", name)
		}
	}
}

// wallClock says which files tell when something happened, or by which process, and so may differ.
func wallClock(path string) bool {
	return path == "lock" || path == "timing.jsonl" || strings.HasPrefix(path, "events/")
}

// A run that is killed again and again, and interrupted, ends with the same bytes as one never stopped: weights,
// optimizer state, discriminators, exports, sheets, statistics, metrics and report.
func TestKilledRunEndsTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("walks the ladder twice")
	}
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	straight, broken := filepath.Join(t.TempDir(), "straight"), filepath.Join(t.TempDir(), "broken")
	first, firstOut := fewstep(t, "run", recipe, "--backend", "go", "--dir", straight)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Process.Kill() }()

	// Each process is stopped a random moment after the statistics have reached a random line of a part of the ladder.
	again := []string{"run", recipe, "--backend", "go", "--dir", broken}
	random := rand.New(rand.NewPCG(4, 2))
	for i, part := range []struct{ from, to int }{{1, 3}, {4, 9}, {12, 16}, {19, 24}, {28, 34}, {39, 43}} {
		line, pause := part.from+random.IntN(part.to-part.from+1), time.Duration(random.IntN(600))*time.Millisecond
		cmd, out := fewstep(t, again...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitForLines(t, cmd, out, filepath.Join(broken, "stats.jsonl"), line)
		if i == 2 {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			ended(t, cmd, out, exitInterrupted)
			if !strings.Contains(out.String(), "the same command continues") {
				t.Errorf("the message of an interrupted run does not say how to continue:\n%s", out)
			}
			continue
		}
		time.Sleep(pause)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	last, lastOut := fewstep(t, again...)
	if err := last.Start(); err != nil {
		t.Fatal(err)
	}
	ended(t, last, lastOut, exitOK)
	ended(t, first, firstOut, exitOK)

	want := files(t, straight, wallClock)
	for _, name := range []string{"exports/8step_lora.safetensors", "exports/4step_unet.safetensors", "exports/1step_unet_x0.safetensors",
		"report/index.html", "report/metrics.csv", "stats.jsonl", "stages/8/lora-cond/result/discriminator.safetensors"} {
		if want[name] == "" {
			t.Errorf("the run made no %s", name)
		}
	}
	if n := len(slices.DeleteFunc(slices.Collect(maps.Keys(want)), func(s string) bool { return !strings.HasSuffix(s, ".optimizer.safetensors") })); n == 0 {
		t.Error("there is no optimizer state to compare")
	}
	sameFiles(t, want, files(t, broken, wallClock))

	// The same command once more has nothing to do and changes nothing.
	before := files(t, broken, func(path string) bool { return path == "lock" })
	done, doneOut := fewstep(t, append(again, "--quiet")...)
	if err := done.Start(); err != nil {
		t.Fatal(err)
	}
	ended(t, done, doneOut, exitOK)
	if doneOut.String() != "done\n" {
		t.Errorf("a finished run says %q", doneOut)
	}
	sameFiles(t, before, files(t, broken, func(path string) bool { return path == "lock" }))

	// Killed between a file and the list that names it: the file is made again and listed.
	for _, folder := range []string{"exports", "sheets", "report"} {
		if err := os.Remove(filepath.Join(broken, folder, "manifest.json")); err != nil {
			t.Fatal(err)
		}
	}
	owing, owingOut := fewstep(t, again...)
	if err := owing.Start(); err != nil {
		t.Fatal(err)
	}
	ended(t, owing, owingOut, exitOK)
	sameFiles(t, want, files(t, broken, wallClock))
	before = files(t, broken, func(path string) bool { return path == "lock" })

	// The data set is not checked again while its file stays as it is; a changed one is refused.
	images := filepath.Join(filepath.Dir(recipe), "images.parquet")
	if _, errs, code := runCommand(t, again...); code != exitOK {
		t.Errorf("code %d, %s", code, errs)
	}
	records, err := tinypipeline.Records()
	if err != nil {
		t.Fatal(err)
	}
	records[3].Caption += " and more"
	if err := data.WriteParquet(images, records); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := runCommand(t, again...); code != exitRefused || !strings.Contains(errs, "data") {
		t.Errorf("code %d, %s", code, errs)
	}
	sameFiles(t, before, files(t, broken, func(path string) bool { return path == "lock" }))
	if err := tinypipeline.Images(images); err != nil {
		t.Fatal(err)
	}

	// Another config is refused by the names of the keys that differ.
	_, errs, code := runCommand(t, append(again, "--set", "stages.8.phases.lora-cond.lr=2e-3", "--set", "seed=12")...)
	if code != exitRefused || !strings.Contains(errs, "stages.8.phases.lora-cond.lr: 0.001 → 0.002") || !strings.Contains(errs, "seed: 11 → 12") {
		t.Errorf("code %d, %s", code, errs)
	}
	sameFiles(t, before, files(t, broken, func(path string) bool { return path == "lock" }))
	if out, errs, code := runCommand(t, "check", broken); code != 0 {
		t.Errorf("the run directory is not sound: %s%s", out, errs)
	}
}

// waitForLines returns when the file has n lines.
func waitForLines(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer, path string, n int) {
	t.Helper()
	for range 6000 {
		raw, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Count(raw, []byte("\n")) >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Fatalf("%s has not %d lines after a minute\n%s", path, n, out)
}

// A loss that is not finite ends the run before anything is made of it.
func TestRunNotFinite(t *testing.T) {
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	_, errs, code := runCommand(t, "run", recipe, "--backend", "go", "--dir", dir, "--quiet", "--set", "stages.16.phases.mse-lora.lr=1e30")
	if code != exitNonFinite || !strings.Contains(errs, "stage 16, phase mse-lora") || !strings.Contains(errs, "step 2") || !strings.Contains(errs, "image-") {
		t.Errorf("code %d, %s", code, errs)
	}
	train, err := data.Open(t.Context(), filepath.Join(filepath.Dir(recipe), "images.parquet"), data.Options{Split: "train"})
	if err != nil {
		t.Fatal(err)
	}
	order, err := train.Order(data.OrderOptions{Seed: 11, Fine: 0.5, Kind: 0.25, Coarse: 0.25})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("samples [%s %s]", train.Row(order.Row(2)).Key, train.Row(order.Row(3)).Key); !strings.Contains(errs, want) {
		t.Errorf("the second update was made of %s: %s", want, errs)
	}
	for name := range files(t, dir, nil) {
		if strings.Contains(name, "/result/") || strings.HasPrefix(name, "exports/") {
			t.Errorf("%s was made of it", name)
		}
	}
}

// A base without the metrics' image encoder, as SDXL's own is, is distilled and exported; the run says first that it will
// make no report.
func TestRunWithoutMetrics(t *testing.T) {
	home := t.TempDir()
	recipe, err := tinypipeline.Write(home, filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(home, "tinymodel", "clip")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(recipe)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(raw), "stages:")
	head += "stages:\n  - {name: \"16\", like: \"32\", teacher_steps: 32, student_steps: 16, phases: {mse-lora: {samples: 2, lr: 1e-3}, mse-full: {samples: 2, lr: 1e-3}}}\n"
	if err := os.WriteFile(recipe, []byte(head), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(home, "run")
	out, errs, code := runCommand(t, "run", recipe, "--backend", "go", "--dir", dir)
	if code != exitOK || strings.TrimSpace(out) != filepath.Join(dir, "exports") || !strings.Contains(errs, "this run will make no report: the model has no clip folder") {
		t.Errorf("code %d, %q, %s", code, out, errs)
	}
	made := files(t, dir, nil)
	if made["exports/16step_unet.safetensors"] == "" || made["report/index.html"] != "" {
		t.Error("the exports are missing, or there is a report")
	}
	if out, _, code := runCommand(t, "run", recipe, "--backend", "go", "--dir", dir, "--quiet"); code != exitOK || out != "done\n" {
		t.Errorf("the finished run says %q with code %d", out, code)
	}
}
