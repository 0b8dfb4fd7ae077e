package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// forkable is a finished toy run with measured rows, and what a fork takes over of it.
func forkable(t *testing.T) (source *Dir, phases []ForkedResult) {
	t.Helper()
	dir := filepath.Join(scratch(t), "source")
	if err := toyRun(dir, 0); err != nil {
		t.Fatal(err)
	}
	source, err := View(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rows/full-8step-8-8.json", "index.html"} {
		if err := source.SaveArtifact(Report, Bytes(name, []byte(name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := source.SaveArtifact(Encoded, Bytes("captions.f32", []byte("encodings"))); err != nil {
		t.Fatal(err)
	}
	return source, []ForkedResult{{Stage: "8to4", Phase: "lora"}}
}

var forkedConfig = []byte(strings.Replace(config, "name: demo", "name: fork", 1))

func mustFork(t *testing.T, dir string, source *Dir, phases []ForkedResult) *Dir {
	t.Helper()
	if err := Fork(dir, forkedConfig, lineage, source, "4to2/lora", phases); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir, forkedConfig, lineage)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestForkTakesResultsOver(t *testing.T) {
	source, phases := forkable(t)
	// A file that was moved to another disk and left as a link must not be needed once it is taken over.
	weights := filepath.Join(source.resultFolder("8to4", "lora"), "weights")
	moved := filepath.Join(scratch(t), "moved")
	if err := errors.Join(os.Rename(weights, moved), os.Symlink(moved, weights)); err != nil {
		t.Fatal(err)
	}
	want, err := source.Result("8to4", "lora")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(scratch(t), "fork")
	d := mustFork(t, dir, source, phases)
	if err := errors.Join(os.RemoveAll(source.Path()), os.Remove(moved)); err != nil {
		t.Fatal(err)
	}
	got, err := d.Result("8to4", "lora")
	if err != nil || got.Digest() != want.Digest() || got.Position != want.Position {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := d.Result("4to2", "lora"); err == nil {
		t.Error("a result behind the fork was taken over")
	}
	if info, err := os.Lstat(got.Path("weights")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Stat(d.StatsPath()); err != nil || info.Size() != got.manifest.Stats {
		t.Errorf("statistics of %v bytes, want %d (%v)", info.Size(), got.manifest.Stats, err)
	}
	if names, err := d.Artifacts(Report); err != nil || fmt.Sprint(names) != "[rows/full-8step-8-8.json]" {
		t.Errorf("%v, %v", names, err)
	}
	if names, err := d.Artifacts(Encoded); err != nil || fmt.Sprint(names) != "[captions.f32]" {
		t.Errorf("%v, %v", names, err)
	}
	f := d.Lineage().Forked
	if f == nil || f.From != "4to2/lora" || len(f.Results) != 1 || f.Results[0].SHA256 != want.Digest() || len(f.ConfigSHA256) != 64 {
		t.Errorf("lineage %+v", f)
	}
	if problems, err := Check(dir); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}

	// Another result in the place of what was taken over is told from damage by the lineage alone.
	if err := d.SaveResult(Point{Stage: "8to4", Phase: "lora"}, nil, Bytes("weights", nil)); err == nil {
		t.Error("a result was overwritten")
	}
	if err := os.RemoveAll(d.resultFolder("8to4", "lora")); err != nil {
		t.Fatal(err)
	}
	if problems, err := Check(dir); err != nil || !strings.Contains(fmt.Sprint(problems), "is missing: the run was forked with it") {
		t.Errorf("%v, %v", problems, err)
	}
	if err := d.SaveResult(Point{Stage: "8to4", Phase: "lora"}, nil, Bytes("weights", nil)); err != nil {
		t.Fatal(err)
	}
	if problems, err := Check(dir); err != nil || !strings.Contains(fmt.Sprint(problems), "is not the result that the run was forked with") {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestForkRefused(t *testing.T) {
	source, phases := forkable(t)
	refused := func(dir, want string, phases ...ForkedResult) {
		t.Helper()
		err := Fork(dir, forkedConfig, lineage, source, "x", phases)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	dir := filepath.Join(scratch(t), "fork")
	refused(dir, "has not finished stage 8to4, phase full", ForkedResult{Stage: "8to4", Phase: "full"})
	full := filepath.Join(scratch(t), "full")
	if err := errors.Join(os.Mkdir(full, 0o777), os.WriteFile(filepath.Join(full, "a"), nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	refused(full, "not empty", phases...)
	weights := filepath.Join(source.resultFolder("8to4", "lora"), "weights")
	raw, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := os.ReadFile(source.StatsPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source.StatsPath(), bytes.Replace(stats, []byte("8to4"), []byte("8to5"), 1), 0o666); err != nil {
		t.Fatal(err)
	}
	refused(dir, "stats.jsonl: its first", phases...)
	if err := os.WriteFile(source.StatsPath(), stats, 0o666); err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := os.WriteFile(weights, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	refused(dir, "weights", phases...)
	if _, err := os.Stat(dir); err == nil {
		t.Error("a refused fork left a directory")
	}
}

// A process that is killed while it forks leaves no run directory or a whole one, and the same again makes the same.
func TestKilledForkLeavesNothingHalf(t *testing.T) {
	source, phases := forkable(t)
	whole := filepath.Join(scratch(t), "whole")
	mustFork(t, whole, source, phases).Close()
	want := outcome(t, whole)
	for kill := 1; ; kill++ {
		dir := filepath.Join(scratch(t), "fork")
		killed := childFork(t, source.Path(), dir, kill)
		if killed {
			if _, err := os.Stat(dir); err == nil {
				t.Fatalf("killed at chance %d, the directory is there", kill)
			}
			mustFork(t, dir, source, phases).Close()
		} else if d, err := Open(dir, forkedConfig, lineage); err != nil {
			t.Fatal(err)
		} else {
			d.Close()
		}
		if got := outcome(t, dir); got != want {
			t.Fatalf("killed at chance %d, got\n%swant\n%s", kill, got, want)
		}
		if !killed {
			if kill < 6 {
				t.Errorf("only %d chances to be killed: the test does not reach the writes", kill)
			}
			return
		}
	}
}

// childFork forks in a process of its own, which kills itself at the n-th chance.
func childFork(t *testing.T, source, dir string, kill int) (killed bool) {
	t.Helper()
	cmd := childCommand(dir, kill)
	cmd.Env = append(cmd.Env, childSource+"="+source)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("kill %d: %v\n%s", kill, err, &stderr)
	}
	return false
}

// toyFork is the child's work.
func toyFork(source, dir string, kill int) error {
	die := chance(kill)
	d, err := View(source)
	if err != nil {
		return err
	}
	d.step = func(string) error { die.take(); return nil }
	return Fork(dir, forkedConfig, lineage, d, "4to2/lora", []ForkedResult{{Stage: "8to4", Phase: "lora"}})
}
