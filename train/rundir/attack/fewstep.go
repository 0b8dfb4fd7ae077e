package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fewstep/train/tinypipeline"
)

const ladder = `stages:
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: {mse-lora: {samples: 4, lr: 1e-3}, mse-full: {samples: 4, lr: 1e-3}}}
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 6, lr: 1e-3}, {name: merge}, {name: full-uncond, samples: 4, lr: 1e-3}]}
`

// onFewstep attacks fewstep itself: kills and signals at random moments of a run.
func (a *attacker) onFewstep(times int) error {
	binary := filepath.Join(a.work, "fewstep")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "fewstep/cmd/fewstep").CombinedOutput(); err != nil {
		return fmt.Errorf("building fewstep: %v\n%s", err, out)
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return err
	}
	recipe, err := tinypipeline.Write(filepath.Join(a.work, "model"), filepath.Join(strings.TrimSpace(string(module)), "model", "clip", "testdata"))
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(recipe)
	if err != nil {
		return err
	}
	head, _, _ := strings.Cut(string(raw), "stages:\n")
	if err := os.WriteFile(recipe, []byte(head+ladder), 0o666); err != nil {
		return err
	}
	run := func(dir string, prepare func(*exec.Cmd)) (ended, error) {
		return command(prepare, binary, "run", recipe, "--backend", "go", "--dir", dir)
	}
	whole, began := a.dir(), time.Now()
	if e, err := run(whole, nil); err != nil || e.code != 0 {
		return fmt.Errorf("fewstep undisturbed ends with %d: %s%v", e.code, e.stderr, err)
	}
	length := time.Since(began)
	want, err := outcome(whole)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		what   string
		signal syscall.Signal
	}{{"fewstep: SIGKILL at a random moment", syscall.SIGKILL}, {"fewstep: SIGINT", syscall.SIGINT}, {"fewstep: SIGTERM", syscall.SIGTERM}, {"fewstep: SIGHUP", syscall.SIGHUP}, {"fewstep: SIGQUIT", syscall.SIGQUIT}} {
		r := row{what: s.what}
		for range times {
			dir := a.dir()
			wait := time.Duration(a.random.Int64N(int64(length)))
			e, err := run(dir, func(cmd *exec.Cmd) {
				time.AfterFunc(wait, func() {
					if cmd.Process != nil {
						_ = cmd.Process.Signal(s.signal)
					}
				})
			})
			if err != nil {
				return err
			}
			r.attacks++
			if e.code != 0 {
				r.stopped++
			}
			if s.signal != syscall.SIGKILL && s.signal != syscall.SIGQUIT && e.code != 0 && e.code != 3 {
				a.failed = append(a.failed, fmt.Sprintf("%s ends with %d: %s", s.what, e.code, e.stderr))
			}
			if err := a.goesOn(&r, func(dir string) (ended, error) { return run(dir, nil) }, dir, want, "then"); err != nil {
				return err
			}
		}
		a.add(r)
	}
	return nil
}
