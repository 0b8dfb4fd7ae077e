package rundir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"fewstep/train/monitor"
)

const (
	childDir  = "RUNDIR_TEST_DIR"
	childKill = "RUNDIR_TEST_KILL" // the process kills itself at the n-th chance

	childSource = "RUNDIR_TEST_SOURCE" // the run that it forks; "" = it walks the toy run
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(shardWorker); dir != "" {
		if err := saveWithOthers(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(childDir); dir != "" {
		kill, _ := strconv.Atoi(os.Getenv(childKill))
		work := func() error { return toyRun(dir, kill) }
		if source := os.Getenv(childSource); source != "" {
			work = func() error { return toyFork(source, dir, kill) }
		}
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// chance kills the process like kill -9 when its count runs out; 0 is never.
type chance int

func (c *chance) take() {
	if *c--; *c == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// suicidal passes bytes on in small pieces with a chance to die before each.
type suicidal struct {
	w io.Writer
	c *chance
}

func (s suicidal) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		s.c.take()
		k := min(len(p), 20)
		m, err := s.w.Write(p[:k])
		n += m
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

// toyRun is a training loop over two phases whose weights are a hash chain
// over every step: one step lost, redone from the wrong state or done twice
// changes all that follow. It starts, continues or finds itself done.
func toyRun(dir string, kill int) error {
	die := chance(kill)
	d, err := Open(dir, []byte(config), lineage)
	if err != nil {
		return err
	}
	defer d.Close()
	d.step = func(string) error { die.take(); return nil }

	phases := []Point{{Stage: "8to4", Phase: "lora"}, {Stage: "4to2", Phase: "lora"}}
	const steps, batch, every = 7, 16, 2
	var from *Snapshot
	current := 0
	for ; current < len(phases); current++ {
		r, err := d.Result(phases[current].Stage, phases[current].Phase)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		from = r
	}
	if current == len(phases) {
		return nil
	}
	c, skipped, err := d.LatestCheckpoint()
	if err != nil {
		return err
	}
	for _, s := range skipped {
		if !s.Unfinished {
			return fmt.Errorf("a kill must never look like damage: %v", s)
		}
	}
	samples := int64(0)
	if c != nil && c.Stage == phases[current].Stage && c.Phase == phases[current].Phase {
		from, samples = c, c.Samples
	}
	if err := d.Rewind(from); err != nil {
		return err
	}
	var weights []byte
	position := int64(0)
	if from != nil {
		position = from.Position
		if weights, err = os.ReadFile(from.Path("weights")); err != nil {
			return err
		}
	}
	stats, err := monitor.OpenStats(d.StatsPath(), d.TimingPath())
	if err != nil {
		return err
	}
	defer stats.Close()
	for ; current < len(phases); current++ {
		p := phases[current]
		save := func() []File {
			return []File{
				{Name: "weights", Write: func(w io.Writer) error { _, err := suicidal{w, &die}.Write(weights); return err }},
				{Name: "copy", WritePath: func(path string) error {
					f, err := os.Create(path)
					if err != nil {
						return err
					}
					defer f.Close()
					_, err = suicidal{f, &die}.Write(weights)
					return err
				}},
			}
		}
		rec := monitor.Record{Kind: monitor.KindPhase, Stage: p.Stage, Phase: p.Phase, Total: steps * batch, Position: position}
		if samples == 0 {
			if err := stats.Update(rec); err != nil {
				return err
			}
		}
		for samples < steps*batch {
			die.take()
			samples += batch
			position += batch
			sum := sha256.Sum256(fmt.Appendf(weights, "%s %s %d", p.Stage, p.Phase, samples))
			weights = sum[:]
			rec.Kind, rec.Samples, rec.Position, rec.Took = monitor.KindStep, samples, position, time.Millisecond
			rec.Values = monitor.Values{monitor.Loss: float64(sum[0])}
			if err := stats.Update(rec); err != nil {
				return err
			}
			die.take()
			p.Samples, p.Position = samples, position
			if samples/batch%every == 0 {
				if err := d.SaveCheckpoint(p, nil, save()...); err != nil {
					return err
				}
			}
		}
		if err := d.SaveResult(p, nil, save()...); err != nil {
			return err
		}
		samples = 0
	}
	return nil
}

func childCommand(dir string, kill int) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childKill+"="+strconv.Itoa(kill))
	return cmd
}

// child runs toyRun in a process of its own; killed tells that it died of
// SIGKILL.
func child(t *testing.T, dir string, kill int, after time.Duration) (killed bool) {
	t.Helper()
	cmd := childCommand(dir, kill)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		time.AfterFunc(after, func() { cmd.Process.Kill() })
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("kill %d: %v\n%s", kill, err, &stderr)
	}
	return false
}

// outcome is everything of a run that must not depend on interruptions.
func outcome(t *testing.T, dir string) string {
	t.Helper()
	problems, err := Check(dir)
	if err != nil || len(problems) != 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
	var b bytes.Buffer
	for _, name := range tree(t, dir) {
		if name == lockName || name == timingName {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %x\n", name, sha256.Sum256(content))
	}
	return b.String()
}

// A run that is killed with SIGKILL again and again, at changes on disk, in the
// middle of files and between steps, ends with the same bytes in every file as
// one that never stopped.
func TestKilledRunEndsTheSame(t *testing.T) {
	whole := scratch(t)
	if child(t, whole, 0, 0) {
		t.Fatal("died unasked")
	}
	want := outcome(t, whole)

	t.Run("once at every fifth chance", func(t *testing.T) {
		for kill := 1; ; kill += 5 {
			dir := filepath.Join(scratch(t), "run")
			killed := child(t, dir, kill, 0)
			if child(t, dir, 0, 0) {
				t.Fatal("died unasked")
			}
			if got := outcome(t, dir); got != want {
				t.Fatalf("killed at chance %d, got\n%swant\n%s", kill, got, want)
			}
			if !killed {
				if kill < 50 {
					t.Errorf("only %d chances to be killed: the test does not reach the writes", kill)
				}
				return
			}
		}
	})
	t.Run("many times", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 3 {
			dir := filepath.Join(scratch(t), "run")
			kills := 0
			for kills < 300 && child(t, dir, 8+random.IntN(30), 0) {
				kills++
			}
			child(t, dir, 0, 0)
			if got := outcome(t, dir); got != want {
				t.Fatalf("after %d kills, got\n%swant\n%s", kills, got, want)
			}
			if kills < 3 {
				t.Errorf("killed %d times only", kills)
			}
		}
	})
	t.Run("from outside", func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		dir := filepath.Join(scratch(t), "run")
		for range 10 {
			child(t, dir, 0, time.Duration(random.IntN(40)+5)*time.Millisecond)
		}
		child(t, dir, 0, 0)
		if got := outcome(t, dir); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
	})
}

// The lock goes with its process, however that ends.
func TestLockIsHeldByProcess(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.CombinedOutput()
	want := fmt.Sprintf("run directory %s is in use by process %d; wait for it or stop it first\n", dir, os.Getpid())
	if err == nil || string(out) != want {
		t.Errorf("%v: got %q, want %q", err, out, want)
	}
	d.Close()
	if !child(t, dir, 5, 0) {
		t.Error("was not killed")
	}
	open(t, dir)
}
