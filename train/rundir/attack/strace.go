package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ended is how a process came to its end.
type ended struct {
	code   int // -1: by a signal
	stderr string
}

func (e ended) killed() bool { return e.code == -1 }

// command runs a command line to its end, or to a minute, which is an error: nothing here hangs.
func command(prepare func(*exec.Cmd), name string, args ...string) (ended, error) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	if prepare != nil {
		prepare(cmd)
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		return ended{}, fmt.Errorf("%s %s: hangs", name, strings.Join(args, " "))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return ended{}, err
	}
	code := cmd.ProcessState.ExitCode()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		code = -1
	}
	return ended{code, stderr.String()}, nil
}

// runVictim runs the victim undisturbed.
func runVictim(dir string) (ended, error) {
	return command(nil, self, "victim", dir)
}

// injected runs the victim under strace with a fault at the n-th time that its main thread makes a system call.
func injected(dir, call, fault string, n int) (ended, error) {
	return command(nil, "strace", "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, fault, n), self, "victim", dir)
}

// counted is how many times the main thread of a whole run of the victim makes each of some calls, from the state that dir is
// in.
func counted(dir string, calls []string) (map[string]int, error) {
	log := dir + "-count.log"
	defer os.Remove(log)
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return nil, err
	}
	if e, err := command(nil, "strace", "-f", "-qq", "-o", log, "-e", "trace="+strings.Join(calls, ","), self, "victim", dir); err != nil || e.code != 0 {
		return nil, fmt.Errorf("counting: %d, %s, %v", e.code, e.stderr, err)
	}
	raw, err := os.ReadFile(log)
	if err != nil {
		return nil, err
	}
	first, n := "", map[string]int{}
	for line := range strings.Lines(string(raw)) {
		pid, rest, _ := strings.Cut(line, " ")
		if first == "" {
			first = pid
		}
		if name, _, ok := strings.Cut(strings.TrimSpace(rest), "("); ok && pid == first && !strings.HasPrefix(name, "<") && !strings.HasPrefix(name, "-") {
			n[name]++
		}
	}
	return n, nil
}

// outcome is everything of a run that must not depend on what happened to it.
func outcome(dir string) (string, error) {
	var b strings.Builder
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || path == "lock" || path == "timing.jsonl" || strings.HasPrefix(path, "events/") {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(raw))
		return err
	})
	return b.String(), err
}
