package series

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"fewstep/distill"
	"fewstep/eval"
	"fewstep/internal/atomicfile"
	"fewstep/train/rundir"
)

// State is what became of a run, or of the acceptance test.
type State string

const (
	Done    State = "done"
	Stopped State = "stopped" // by the end of the time; the next call goes on with it
	Failed  State = "failed"
	Waiting State = "waiting" // not begun: no time, or what it begins with is not there
)

// Outcome is a job and what became of it.
type Outcome struct {
	Name    string  `json:"run"`
	State   State   `json:"state"`
	Seconds float64 `json:"seconds"` // of this call
	Why     string  `json:"why,omitempty"`
}

// Exit code of a command that was interrupted and has saved.
const interrupted = 3

// Options of Walk.
type Options struct {
	Dir    string        // one folder per run, beside their logs
	Accept bool          // test the benchmark first
	Set    []string      // keys of every recipe
	Slots  []Slot        // a job runs in each
	Stop   time.Time     // when jobs are asked to save and to end
	Kill   time.Time     // when those that are still there are killed, which loses no more than what came since their last checkpoint
	Say    func(string)  // is told what begins and ends
	Done   func()        // is called when a job is done and the next ones have begun; may be nil
	Every  time.Duration // how often to look; 0 = a second
	Args   []string      // of every command, such as --backend
	Start  func(Job) *exec.Cmd
}

// Slot is where one job at a time runs.
type Slot struct {
	Name string   // for people: "GPU 0"
	Env  []string // of its processes
}

// Job is a command line of fewstep.
type Job struct {
	Name string
	Args []string
	run  *Run // nil = the acceptance test
}

// acceptance is the name of that test's folder and log.
const acceptance = "acceptance"

// ended is a job that has ended in a slot.
type ended struct {
	job     Job
	slot    int
	err     error
	seconds float64
}

// walk is a series on its way.
type walk struct {
	Options
	series   *Series
	waiting  []Job
	outcomes map[string]*Outcome
	free     []int // slots
	running  map[string]*exec.Cmd
	places   map[string]string // of the jobs that run, the name of their slot
	mu       sync.Mutex        // of what follows: processes are signalled while they may end
	results  chan ended
	wait     sync.WaitGroup
	failed   []string        // in this call
	found    map[string]bool // jobs whose first phases are there
}

// Walk does what there is time for, and says of every job what became of it, in the order of the list.
func (s *Series) Walk(ctx context.Context, o Options) ([]Outcome, error) {
	if o.Every == 0 {
		o.Every = time.Second
	}
	w := &walk{Options: o, series: s, outcomes: map[string]*Outcome{}, running: map[string]*exec.Cmd{}, places: map[string]string{}, results: make(chan ended), found: map[string]bool{}}
	if err := atomicfile.MakeDir(filepath.Join(o.Dir, "logs")); err != nil {
		return nil, err
	}
	if err := w.list(); err != nil {
		return nil, err
	}
	for i := range o.Slots {
		w.free = append(w.free, i)
	}
	names := make([]string, len(w.waiting))
	for i, j := range w.waiting {
		names[i] = j.Name
	}
	err := w.until(ctx)
	out := make([]Outcome, 0, len(names))
	for _, name := range names {
		out = append(out, *w.outcomes[name])
	}
	return out, err
}

// list makes the jobs: in order, but what failed in an earlier call last.
func (w *walk) list() error {
	var again []Job
	add := func(j Job) {
		w.outcomes[j.Name] = &Outcome{Name: j.Name, State: Waiting}
		if _, err := os.Stat(w.failure(j.Name)); err == nil {
			again = append(again, j)
			return
		}
		w.waiting = append(w.waiting, j)
	}
	if w.Accept {
		args := []string{"eval", "accept", w.series.Main, "--out", filepath.Join(w.Dir, acceptance)}
		add(Job{Name: acceptance, Args: w.args(args, w.series.accept(w.Set))})
	}
	for _, r := range w.series.Runs {
		args := []string{"run", r.Recipe, "--dir", filepath.Join(w.Dir, r.Name), "--launcher", "none"}
		if r.Parent != nil {
			args = append(args, "--fork", filepath.Join(w.Dir, r.Parent.Name), "--from", r.From)
		}
		add(Job{r.Name, w.args(args, r.Set(w.Set)), r})
	}
	w.waiting = append(w.waiting, again...)
	return nil
}

func (w *walk) args(args, set []string) []string {
	args = append(args, w.Args...)
	for _, v := range set {
		args = append(args, "--set", v)
	}
	return args
}

func (w *walk) failure(name string) string { return filepath.Join(w.Dir, "logs", name+".failed") }
func (w *walk) log(name string) string     { return filepath.Join(w.Dir, "logs", name+".log") }

// until begins jobs and waits for them until all have ended or the time has.
func (w *walk) until(ctx context.Context) error {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	stop, kill := time.After(time.Until(w.Stop)), time.After(time.Until(w.Kill))
	stopping := false
	begin := func() error {
		if stopping {
			return nil
		}
		return w.begin()
	}
	if err := begin(); err != nil {
		return err
	}
	cancelled := ctx.Done()
	for len(w.running) > 0 || !stopping && w.pending() {
		done := false
		select {
		case e := <-w.results:
			w.ended(e)
			done = w.outcomes[e.job.Name].State == Done
		case <-tick.C:
		case <-cancelled:
			stopping, cancelled = true, nil
			w.signal(syscall.SIGINT)
		case <-stop:
			if !stopping {
				stopping = true
				w.Say("the time is over: runs save and end")
				w.signal(syscall.SIGINT)
			}
		case <-kill:
			w.signal(syscall.SIGKILL)
		}
		if err := begin(); err != nil {
			w.signal(syscall.SIGINT)
			return err
		}
		if done && w.Done != nil {
			w.Done()
		}
	}
	return ctx.Err()
}

// pending tells whether a job may begin yet: while none runs, only those that are ready will.
func (w *walk) pending() bool {
	for _, j := range w.waiting {
		if ok, _ := w.ready(j); ok {
			return true
		}
	}
	return false
}

// begin fills free slots with the first jobs that are ready. Where the run is on its way that a more important job waits for, no
// job overtakes that one: it would slow down what is waited for.
func (w *walk) begin() error {
	for begun := true; begun; {
		if err := w.strikeDone(); err != nil {
			return err
		}
		begun = false
		ready := w.readiness()
		for _, slot := range w.emptiestFirst() {
			at := w.next(ready, w.Slots[slot].Name)
			if at < 0 {
				continue
			}
			j := w.waiting[at]
			w.waiting = slices.Delete(w.waiting, at, at+1)
			w.free = slices.DeleteFunc(w.free, func(i int) bool { return i == slot })
			if err := w.start(j, slot); err != nil {
				return err
			}
			begun = true
			break
		}
	}
	return nil
}

// readiness says of each job that waits whether it may begin.
func (w *walk) readiness() []bool {
	ready := make([]bool, len(w.waiting))
	for i, j := range w.waiting {
		ready[i], w.outcomes[j.Name].Why = w.ready(j)
	}
	return ready
}

// next is the place in the list of the job that may begin on a place, -1 if none may.
func (w *walk) next(ready []bool, place string) int {
	for i, j := range w.waiting {
		if ready[i] {
			return i
		}
		if w.places[j.run.Parent.Name] == place {
			return -1
		}
	}
	return -1
}

// strikeDone takes the jobs off the list that have their results.
func (w *walk) strikeDone() error {
	for i := 0; i < len(w.waiting); {
		j := w.waiting[i]
		done, err := w.isDone(j)
		if err != nil {
			return err
		}
		if !done {
			i++
			continue
		}
		w.outcomes[j.Name].State, w.outcomes[j.Name].Why = Done, ""
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
	return nil
}

// emptiestFirst are the free slots, those first where nothing else runs.
func (w *walk) emptiestFirst() []int {
	var empty, busy []int
	for _, slot := range w.free {
		in := &empty
		for _, place := range w.places {
			if place == w.Slots[slot].Name {
				in = &busy
			}
		}
		*in = append(*in, slot)
	}
	return append(empty, busy...)
}

// isDone tells whether a job has its result already.
func (w *walk) isDone(j Job) (bool, error) {
	if j.run == nil {
		_, err := os.Stat(filepath.Join(w.Dir, acceptance, "acceptance.json"))
		return err == nil, nil
	}
	return Measured(filepath.Join(w.Dir, j.Name))
}

// Measured tells whether a run has its report.
func Measured(dir string) (bool, error) {
	if born, _, err := rundir.Born(dir); err != nil || !born {
		return false, nil // the run itself says what is wrong with its directory
	}
	d, err := rundir.View(dir)
	if err != nil {
		return false, nil
	}
	defer d.Close()
	return eval.Reported(d)
}

// ready tells whether what a job begins with is there, or why not.
func (w *walk) ready(j Job) (ok bool, why string) {
	if j.run == nil || j.run.Parent == nil {
		return true, ""
	}
	if born, _, err := rundir.Born(filepath.Join(w.Dir, j.Name)); err == nil && born {
		return true, "" // it was forked in an earlier call
	}
	p := j.run.Parent
	if w.found[j.Name] {
		return true, ""
	}
	if slices.Contains(w.failed, p.Name) {
		return false, p.Name + " failed, with which it begins"
	}
	d, err := rundir.View(filepath.Join(w.Dir, p.Name))
	if err != nil {
		return false, "it begins with phases of " + p.Name
	}
	defer d.Close()
	steps, err := distill.Plan(p.Config, distill.Epsilon)
	if err != nil {
		return false, err.Error()
	}
	last := steps[j.run.Shared-1]
	if _, err := d.Result(last.StageName, last.PhaseName); err != nil {
		return false, "it begins with phase " + last.Path() + " of " + p.Name
	}
	w.found[j.Name] = true
	return true, ""
}

func (w *walk) start(j Job, slot int) error {
	log, err := os.OpenFile(w.log(j.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	cmd := w.Start(j)
	cmd.Env = append(append(os.Environ(), cmd.Env...), w.Slots[slot].Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is passed on once, not twice
	fmt.Fprintf(log, "\n# %s %s\n", time.Now().UTC().Format(time.RFC3339), strings.Join(cmd.Args, " "))
	if err := cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	begun := time.Now()
	w.mu.Lock()
	w.running[j.Name] = cmd
	w.mu.Unlock()
	w.places[j.Name] = w.Slots[slot].Name
	text := j.Name + " begins on " + w.Slots[slot].Name
	if j.run != nil && j.run.Parent != nil {
		text += fmt.Sprintf(", with %s up to %s", j.run.Parent.Name, j.run.From)
	}
	w.Say(text)
	go func() {
		err := errors.Join(cmd.Wait(), log.Close())
		w.results <- ended{j, slot, err, time.Since(begun).Seconds()}
	}()
	return nil
}

// ended takes an ended job's slot back and judges how it ended.
func (w *walk) ended(e ended) {
	w.mu.Lock()
	delete(w.running, e.job.Name)
	w.mu.Unlock()
	delete(w.places, e.job.Name)
	w.free = append(w.free, e.slot)
	slices.Sort(w.free)
	o := w.outcomes[e.job.Name]
	o.Seconds, o.Why = o.Seconds+e.seconds, ""
	var exit *exec.ExitError
	code, killed := 0, false
	if errors.As(e.err, &exit) {
		code = exit.ExitCode()
		status, ok := exit.Sys().(syscall.WaitStatus)
		killed = ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	}
	done, err := w.isDone(e.job)
	switch {
	case err == nil && done: // a benchmark that is not accepted ends with an error, and is measured all the same
		o.State = Done
		_ = os.Remove(w.failure(e.job.Name))
	case code == interrupted || killed && !time.Now().Before(w.Kill):
		o.State = Stopped
	default:
		o.State, o.Why = Failed, w.reason(e)
		w.failed = append(w.failed, e.job.Name)
		if err := atomicfile.WriteBytes(w.failure(e.job.Name), []byte(o.Why+"\n")); err != nil {
			w.Say(err.Error())
		}
	}
	text := fmt.Sprintf("%s %s after %.0f s", e.job.Name, o.State, e.seconds)
	if o.Why != "" {
		text += ": " + o.Why
	}
	w.Say(text)
}

// reason is the last line that a failed job wrote which is no hint.
func (w *walk) reason(e ended) string {
	raw, _ := os.ReadFile(w.log(e.job.Name))
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for _, line := range slices.Backward(lines) {
		if text, ok := strings.CutPrefix(line, "fewstep: "); ok && !strings.HasPrefix(text, "hint: ") {
			return text
		}
	}
	return fmt.Sprint(e.err)
}

// signal sends a signal to all processes that run.
func (w *walk) signal(s syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, cmd := range w.running {
		_ = cmd.Process.Signal(s)
	}
}
