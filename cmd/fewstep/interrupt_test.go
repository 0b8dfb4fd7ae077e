package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train/tinypipeline"
)

// Interrupted work is left where it is, but while something would be lost by that; work that ends is believed. The clock is
// synctest's, so the times are exact.
func TestInterruptible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		forever := make(chan struct{})
		defer close(forever)
		hang := func() error { <-forever; return nil }
		interrupted, cancel := context.WithCancel(t.Context())
		cancel()
		if err := interruptible(t.Context(), nil, func() error { return failed }); err != failed {
			t.Errorf("work that failed gave %v", err)
		}
		if err := interruptible(interrupted, nil, func() error { return failed }); err != failed {
			t.Errorf("interrupted work that ended by itself gave %v", err)
		}
		start := time.Now()
		if err := interruptible(interrupted, nil, hang); err != context.Canceled || time.Since(start) != grace {
			t.Errorf("work that goes on gave %v after %v", err, time.Since(start))
		}
		var saved atomic.Bool
		time.AfterFunc(10*grace, func() { saved.Store(true) })
		start = time.Now()
		if err := interruptible(interrupted, func() bool { return !saved.Load() }, hang); err != context.Canceled || time.Since(start) < 10*grace || time.Since(start) > 11*grace {
			t.Errorf("work with something to lose gave %v after %v", err, time.Since(start))
		}
	})
}

// compiling is a command line whose programs are not in any cache, and take as long to compile as a user's.
func compiling(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles")
	}
	rt, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		xlatest.Missing(t, err)
	}
	rt.Close()
	cmd, out := fewstep(t, append(args, "--backend", "cpu")...)
	cmd.Env = append(cmd.Env, xla.CacheEnv+"=off", "XLA_FLAGS=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// interrupt sends a signal to a command, which must end as documented.
func interrupt(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer, signal os.Signal, message string) {
	t.Helper()
	_ = cmd.Process.Signal(signal)
	ended(t, cmd, out, exitInterrupted)
	if !strings.Contains(out.String(), message) {
		t.Errorf("the message does not say %q:\n%s", message, out)
	}
}

// A signal ends a run while programs compile, which takes longer than anyone waits for a process to end: those of
// its first update, and in the background those of later phases. (That the run does not wait for them is tested by train's TestRunInterruptedWhileCompiling.) What was done is kept and the same command continues.
func TestRunInterruptedWhileCompiling(t *testing.T) {
	for _, c := range []struct {
		name   string
		lines  int // of statistics, of which the first is the phase's beginning
		signal os.Signal
	}{{"before the first update", 1, syscall.SIGTERM}, {"after it", 2, os.Interrupt}} {
		t.Run(c.name, func(t *testing.T) {
			recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "run")
			stats := filepath.Join(dir, "stats.jsonl")
			cmd, out := compiling(t, "run", recipe, "--dir", dir, "--until", "16")
			waitForLines(t, cmd, out, stats, c.lines)
			interrupt(t, cmd, out, c.signal, "the same command continues")
			raw, err := os.ReadFile(stats)
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.Count(raw, []byte("\n"))
			t.Logf("%d lines of statistics", lines)
			_, errs, code := runCommand(t, "run", recipe, "--dir", dir, "--until", "16", "--backend", "go")
			if code != exitOK {
				t.Errorf("the same command gives code %d: %s", code, errs)
			}
			if kept := strings.Contains(errs, "continuing"); kept != (lines > 1) {
				t.Errorf("it goes on from what was saved: %t, after %d lines\n%s", kept, lines, errs)
			}
		})
	}
}

// A signal ends a measurement at once while its programs compile.
func TestBenchInterruptedWhileCompiling(t *testing.T) {
	cmd, out := compiling(t, "bench", "--preset", "mini", "--step", "adv-full")
	// Compiling begins shortly after the plugin was loaded, and takes many seconds.
	maps := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "maps")
	for range 1000 {
		raw, err := os.ReadFile(maps)
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Skip(err)
		}
		if bytes.Contains(raw, []byte("pjrt")) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second)
	interrupt(t, cmd, out, syscall.SIGTERM, "nothing was measured")
}
