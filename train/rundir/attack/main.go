// Command attack tries to break run directories, and writes the manual's table of what it tried and how that ended:
//
//	make attack
//
// One victim is a toy training loop (victim.go) that does to its directory all that a run does, in some milliseconds, so that it
// can be attacked at every one of its system calls. The other is fewstep itself, walking a short ladder over a random model of
// a few hundred kilobytes in pure Go. After each attack the same command goes on undisturbed; the directory must then hold
// the same bytes as that of a run that nothing disturbed, with no file taken for damaged and none set aside.
//
// It needs strace, and for small disks the right to mount; rows for which something is missing say so.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"fewstep/train/rundir"
)

var self string

func main() {
	if len(os.Args) == 3 && os.Args[1] == "victim" {
		if err := victim(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go run ./train/rundir/attack [-every n] [-real n]")
		flag.PrintDefaults()
	}
	every := flag.Int("every", 1, "attack every n-th system call only")
	realRuns := flag.Int("real", 12, "attacks of each kind on fewstep itself")
	flag.Parse()
	if err := attack(*every, *realRuns); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

// row is a line of the table.
type row struct {
	what             string
	attacks, stopped int // of these many processes the attack stopped so many, or made them fail
	unlike           int // directories that ended otherwise
	note             string
}

// attacker makes the rows.
type attacker struct {
	work   string
	want   string // the outcome of an undisturbed victim
	half   string // a victim's directory that was killed in the middle
	every  int
	random *rand.Rand
	rows   []row
	number int
	failed []string
}

func attack(every, realRuns int) (err error) {
	if self, err = os.Executable(); err != nil {
		return err
	}
	work, err := os.MkdirTemp("/dev/shm", "fewstep-attack-")
	if err != nil {
		if work, err = os.MkdirTemp("", "fewstep-attack-"); err != nil {
			return err
		}
	}
	defer os.RemoveAll(work)
	a := &attacker{work: work, every: max(every, 1), random: rand.New(rand.NewPCG(1, 2))}
	whole := a.dir()
	if e, err := runVictim(whole); err != nil || e.code != 0 {
		return fmt.Errorf("the undisturbed victim ends with %d: %s%v", e.code, e.stderr, err)
	}
	if a.want, err = outcome(whole); err != nil {
		return err
	}
	began := time.Now()
	steps := []func() error{a.kills}
	if _, err := exec.LookPath("strace"); err != nil {
		a.rows = append(a.rows, row{what: "everything at exact system calls", note: "left out: strace is not there"})
	} else {
		steps = append(steps, a.atCalls, a.failedWrites, a.failedReads, a.powerCuts)
	}
	steps = append(steps, a.smallDisks)
	if realRuns > 0 {
		steps = append(steps, func() error { return a.onFewstep(realRuns) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	a.write(time.Since(began), realRuns)
	if len(a.failed) > 0 {
		return errors.New(strings.Join(a.failed, "\n"))
	}
	return nil
}

// dir is a fresh place for a run directory, whose parent is fresh as well.
func (a *attacker) dir() string {
	a.number++
	return filepath.Join(a.work, fmt.Sprint(a.number), "run")
}

// recovers lets the victim go on undisturbed after an attack, and compares.
func (a *attacker) recovers(r *row, dir, what string) error {
	return a.goesOn(r, runVictim, dir, a.want, what)
}

// goesOn continues a directory after an attack and compares what is then there; a directory that is as it should be is deleted.
func (a *attacker) goesOn(r *row, run func(dir string) (ended, error), dir, want, what string) error {
	e, err := run(dir)
	if err != nil {
		return err
	}
	got, err := outcome(dir)
	if err != nil {
		return err
	}
	problems, err := rundir.Check(dir)
	if err != nil {
		return err
	}
	problems = slices.DeleteFunc(problems, func(p rundir.Problem) bool { return p.Harmless && p.Path == "timing.jsonl" }) // a log, which a power cut may cut
	if e.code != 0 || got != want || len(problems) > 0 {
		r.unlike++
		a.failed = append(a.failed, fmt.Sprintf("%s, %s: code %d, %s%v", r.what, what, e.code, e.stderr, problems))
		fmt.Fprintln(os.Stderr, a.failed[len(a.failed)-1])
		return nil
	}
	return os.RemoveAll(filepath.Dir(dir))
}

func (a *attacker) add(r row) {
	fmt.Fprintf(os.Stderr, "%s: %d, %d stopped, %d ended otherwise\n", r.what, r.attacks, r.stopped, r.unlike)
	a.rows = append(a.rows, r)
}

// kills ends the victim at random moments.
func (a *attacker) kills() error {
	r := row{what: "SIGKILL at a random moment, up to five times one after the other"}
	for range 100 / a.every {
		dir := a.dir()
		for range 1 + a.random.IntN(5) {
			wait := time.Duration(a.random.IntN(60_000)) * time.Microsecond
			e, err := command(func(cmd *exec.Cmd) {
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				time.AfterFunc(wait, func() {
					if cmd.Process != nil {
						_ = cmd.Process.Kill()
					}
				})
			}, self, "victim", dir)
			if err != nil {
				return err
			}
			r.attacks++
			if e.killed() {
				r.stopped++
			}
		}
		if err := a.recovers(&r, dir, "killed"); err != nil {
			return err
		}
	}
	a.add(r)
	return nil
}

// changing are the calls that change a disk; reading those that look at it.
var (
	changing = []string{"openat", "write", "pwrite64", "ftruncate", "fsync", "renameat", "mkdirat", "unlinkat", "flock"}
	reading  = []string{"openat", "read", "pread64", "newfstatat", "fstat", "getdents64", "flock"}
)

// at injects a fault at every call of a whole run of the victim, from its start and from where it was stopped in the middle.
func (a *attacker) at(what string, calls []string, fault string, stops func(ended) bool) error {
	r := row{what: what}
	for _, half := range []bool{false, true} {
		start := func() (string, error) {
			dir := a.dir()
			if !half {
				return dir, nil
			}
			return dir, a.halfway(dir)
		}
		dir, err := start()
		if err != nil {
			return err
		}
		counts, err := counted(dir, calls)
		if err != nil {
			return err
		}
		for _, call := range calls {
			for i := 1; i <= counts[call]; i += a.every {
				dir, err := start()
				if err != nil {
					return err
				}
				e, err := injected(dir, call, fault, i)
				if err != nil {
					return err
				}
				r.attacks++
				if stops(e) {
					r.stopped++
				} else if e.code != 0 {
					a.failed = append(a.failed, fmt.Sprintf("%s at call %d of %s: code %d, %s", what, i, call, e.code, e.stderr))
				}
				if err := a.recovers(&r, dir, fmt.Sprintf("call %d of %d of %s, from the middle %v", i, counts[call], call, half)); err != nil {
					return err
				}
			}
		}
	}
	a.add(r)
	return nil
}

// halfway makes dir a victim's directory that was killed in the middle, with checkpoints of a phase that has no result.
func (a *attacker) halfway(dir string) error {
	if a.half == "" {
		for n := 1; ; n++ {
			half := a.dir()
			e, err := injected(half, "renameat", "signal=KILL", n)
			if err != nil {
				return err
			}
			found, _ := filepath.Glob(filepath.Join(half, "stages", "8", "full", "checkpoints", "*", "manifest.json"))
			results, _ := filepath.Glob(filepath.Join(half, "stages", "8", "full", "result", "manifest.json"))
			if e.killed() && len(found) == 2 && len(results) == 0 {
				a.half = half
				break
			}
			if !e.killed() {
				return errors.New("no state in the middle was found")
			}
		}
	}
	return os.CopyFS(dir, os.DirFS(a.half))
}

func (a *attacker) atCalls() error {
	return a.at("SIGKILL before each system call that changes the disk", changing, "signal=KILL", ended.killed)
}

func failed(e ended) bool { return e.code == 1 }

func (a *attacker) failedWrites() error {
	for _, f := range []struct {
		what  string
		calls []string
	}{
		{"ENOSPC at each write", []string{"write", "pwrite64", "mkdirat"}},
		{"EIO at each write, fsync, rename, cut and removal", []string{"write", "pwrite64", "ftruncate", "fsync", "renameat", "unlinkat", "mkdirat"}},
	} {
		name, _, _ := strings.Cut(f.what, " ")
		if err := a.at(f.what, f.calls, "error="+name, failed); err != nil {
			return err
		}
	}
	return nil
}

func (a *attacker) failedReads() error {
	return a.at("EIO at each opening, reading, listing and asking", reading, "error=EIO", func(e ended) bool {
		return failed(e) || e.code == 127 // the dynamic linker's
	})
}

// powerCuts cuts the power of the disk below a whole run, whose folder and its parent are not there at the beginning, after
// every second call that changes it.
func (a *attacker) powerCuts() error {
	dir := a.dir()
	log := filepath.Join(a.work, "trace.log")
	e, err := command(nil, "strace", "-f", "-qq", "-o", log, "-xx", "-s", "1000000000", "-e", "trace="+traceCalls, self, "victim", dir)
	if err != nil || e.code != 0 {
		return fmt.Errorf("tracing: %d %s %v", e.code, e.stderr, err)
	}
	raw, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	calls, err := parseTrace(string(raw))
	if err != nil {
		return err
	}
	base := filepath.Dir(filepath.Dir(dir))
	d := newDisk(base)
	var cuts []int
	for i, c := range calls {
		if err := d.apply(c); err != nil {
			return err
		}
		if c[0] != "openat" && c[0] != "close" {
			cuts = append(cuts, i)
		}
	}
	replayed := filepath.Join(a.work, "replayed")
	if err := d.cut(replayed, "all", a.random); err != nil {
		return err
	}
	rel, err := filepath.Rel(base, dir)
	if err != nil {
		return err
	}
	// The replay must end in what the programs saw, or its cuts mean nothing.
	if got, err := outcome(filepath.Join(replayed, rel)); err != nil || got != a.want {
		return fmt.Errorf("the replayed disk is not the real one: %v\n%s", err, got)
	}
	// What a run that has ended left is durable, down to the entry of its directory in its parent.
	durable := filepath.Join(a.work, "durable")
	if err := d.cut(durable, "strict", a.random); err != nil {
		return err
	}
	got, err := outcome(filepath.Join(durable, rel))
	if err != nil {
		return err
	}
	for line := range strings.Lines(a.want) { // there may be more: removing old checkpoints need not be durable
		if !strings.Contains(got, line) {
			a.failed = append(a.failed, "at the end this is not durable: "+line)
		}
	}
	for _, mode := range cutModes {
		r := row{what: "power cut, simulated: " + mode}
		for k := 0; k < len(cuts); k += 2 * a.every {
			d := newDisk(base)
			for _, c := range calls[:cuts[k]+1] {
				if err := d.apply(c); err != nil {
					return err
				}
			}
			at := a.dir()
			at = filepath.Join(filepath.Dir(at), rel)
			if err := d.cut(filepath.Dir(filepath.Dir(at)), mode, a.random); err != nil {
				return err
			}
			r.attacks++
			r.stopped++
			if err := a.recovers(&r, at, fmt.Sprintf("after call %d: %.100s", cuts[k], strings.Join(calls[cuts[k]][:], " "))); err != nil {
				return err
			}
		}
		a.add(r)
	}
	return nil
}

// smallDisks runs the victim on disks that are too small by more and by less.
func (a *attacker) smallDisks() error {
	r := row{what: "a disk of 50 kB to 1.5 MB that gets full"}
	mount := filepath.Join(a.work, "disk")
	if err := os.MkdirAll(mount, 0o777); err != nil {
		return err
	}
	for kb := 50; kb <= 1500; kb += 50 * a.every {
		if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, fmt.Sprintf("size=%dk", kb)); err != nil {
			r.note = fmt.Sprintf("left out: this process may not mount (%v)", err)
			break
		}
		dir := filepath.Join(mount, "x", "run")
		e, err := runVictim(dir)
		if err == nil {
			r.attacks++
			if e.code != 0 {
				r.stopped++
				if !strings.Contains(e.stderr, "no space left") {
					a.failed = append(a.failed, fmt.Sprintf("a disk of %d kB: %d %s", kb, e.code, e.stderr))
				}
			}
			err = syscall.Mount("tmpfs", mount, "tmpfs", syscall.MS_REMOUNT, "size=64m")
		}
		if err == nil {
			err = a.recovers(&r, dir, fmt.Sprintf("%d kB", kb))
		}
		if err := errors.Join(err, syscall.Unmount(mount, 0)); err != nil {
			return err
		}
	}
	a.add(r)
	return nil
}

func (a *attacker) write(took time.Duration, realRuns int) {
	fmt.Print(`# Attacks on run directories

Written by ` + "`make attack`" + `; [attack](attack/main.go) says how. "Stopped" are the processes that the attack ended
or made fail; the others met it where nothing was lost by it. After each attack the same command goes on; "otherwise" counts the
directories that then held any other byte than those of an undisturbed run, a file taken for damaged, or one set aside.

| attack | attacks | stopped | ended otherwise |
|---|---|---|---|
`)
	for _, r := range a.rows {
		note := ""
		if r.note != "" {
			note = " (" + r.note + ")"
		}
		fmt.Printf("| %s%s | %d | %d | %d |\n", r.what, note, r.attacks, r.stopped, r.unlike)
	}
	fmt.Printf("\n%s, %d CPUs, %s, with -every %d -real %d.\n", runtime.Version(), runtime.NumCPU(), took.Round(time.Second), a.every, realRuns)
	if old, err := os.ReadFile(manual); err == nil { // what people wrote below the table stays
		if _, below, ok := strings.Cut(string(old), "\n## "); ok {
			fmt.Print("\n## " + below)
		}
	}
}

// manual is the file that make attack writes, from the module's root.
const manual = "train/rundir/ATTACKS.md"
