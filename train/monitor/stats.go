// Package monitor shows a run while it goes and keeps what it showed: a
// progress line, stats.jsonl, TensorBoard events, Prometheus metrics, and
// warnings when a discriminator collapses or a number stops being finite.
//
// The training loop makes one Record per optimizer step and hands it to one
// Reporter, usually Fan(stats, events, progress, metrics).
package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Names of values that progress, health and report know. Others may be added
// freely; they go to stats, events and metrics.
const (
	Loss     = "loss"      // MSE of a distillation step, or a diffusion loss
	LossD    = "loss_d"    // discriminator loss, equation 20, mean over samples
	LossG    = "loss_g"    // student's adversarial loss, equation 21, mean over samples
	Accuracy = "acc"       // discriminator accuracy over real and fake, each logit compared with 0; 0 to 1
	Paired   = "paired"    // share of samples whose real logit exceeds the fake one: both share x_t, c and t; 0 to 1
	Gap      = "gap"       // mean logit of real minus mean logit of fake
	R1       = "r1"        // mean of (ℓ(x) − ℓ(x + σ·noise))² over real samples, where discriminator.r1 asks for it; not weighted, not in loss_d
	GapError = "gap_se"    // standard error of gap over the update's samples
	GradNorm = "grad_norm" // global norm of the student's gradient
	LR       = "lr"        // learning rate of the student

	StudentUpdates       = "student_updates"       // of the student in this phase so far, in adversarial phases
	DiscriminatorUpdates = "discriminator_updates" // of the discriminator in this phase so far
)

// FewUpdates is the number of updates below which a student has hardly moved: a phase that makes fewer is named, because
// its model is the one that it started from.
const FewUpdates = 10

// Summary tells what a phase's training amounted to. It is the meta of the phase's result.
type Summary struct {
	Updates              int64 `json:"updates"`
	StudentUpdates       int64 `json:"student_updates"`
	DiscriminatorUpdates int64 `json:"discriminator_updates"` // 0 where the phase has none

	DiscriminatorSteps int64 `json:"discriminator_steps,omitempty"` // of its optimizer, with those of the phases that it was carried through

	Paired float64 `json:"paired,omitempty"` // accuracy of pairs over the last discriminator.gate_window samples
}

// Names of wall-clock figures; others may be added freely.
const (
	TFLOPs     = "tflop_per_s"       // model operations per second, in units of 1e12, over the updates of the last second or the last one; cost.ModelCount says which count
	MFU        = "mfu"               // of the device's peak in that, 0 to 1
	MemoryLive = "memory_bytes"      // on the device now
	MemoryPeak = "memory_peak_bytes" // most since the phase began, or since the process began where only the device knows
	GoodputNow = "goodput"           // share of the run's time so far that went into updates which it kept; see Goodput
	Returns    = "returns"           // how often the run went back to an earlier state so far
	DataWait   = "data_wait_seconds" // in which the next batch was not ready on the device; of every step
	// The parts of a step, in seconds. Measured on a few steps of a phase, its first among them: knowing when the teacher is
	// done takes waiting for it, and so does each update, where other steps are queued before the one ahead of them is done.
	DataSeconds          = "data_seconds"          // waiting for noise, captions, and their way to the device
	TeacherSeconds       = "teacher_seconds"       // its calls
	DiscriminatorSeconds = "discriminator_seconds" // its gradient
	StudentSeconds       = "student_seconds"       // its sample for the discriminator, its gradient
	WaitSeconds          = "wait_seconds"          // for other processes, where gradients are added up through hosts' memory; beside the parts
	StepSeconds          = "step_seconds"          // of the whole update, told for every rank
	UpdateSeconds        = "update_seconds"        // of both; missing where an update is one program with its gradient, and counted there
)

// The parts of a step are measured on every WallEvery-th step of a phase, unless less than WallPause has passed since.
const (
	WallEvery = 8
	WallPause = 5 * time.Second
)

// Kinds of records.
const (
	KindStep  = "step"  // one optimizer step
	KindPhase = "phase" // a phase begins; Values may be empty
	KindEval  = "eval"  // a measurement of the student
)

// Record is what is known after one optimizer step. All of it but Took and Wall follows
// from the configuration and the data alone, so that an interrupted and
// continued run leaves the same bytes as one never stopped.
type Record struct {
	Kind     string `json:"kind"`
	Stage    string `json:"stage"`
	Phase    string `json:"phase"`
	Step     int64  `json:"step"`     // optimizer steps done in this phase
	Samples  int64  `json:"samples"`  // samples done in this phase
	Total    int64  `json:"total"`    // samples of this phase
	Position int64  `json:"position"` // samples done in the whole run
	RunTotal int64  `json:"run_total"`
	Values   Values `json:"values"`

	// Took is the wall-clock time of the step; it goes to timing.jsonl, events
	// and metrics, never to stats.jsonl.
	Took time.Duration `json:"-"`
	Wall Values        `json:"-"` // more figures of that kind, by name; they go where Took goes, and to progress
}

// Values are a record's numbers by name. JSON has no NaN or infinity; they are
// written as the strings "NaN", "+Inf" and "-Inf".
type Values map[string]float64

// MarshalJSON writes the values in the order of their names.
func (v Values) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, k := range slices.Sorted(maps.Keys(v)) {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		b = append(append(b, name...), ':')
		if x := v[k]; math.IsNaN(x) || math.IsInf(x, 0) {
			b = strconv.AppendQuote(b, strconv.FormatFloat(x, 'g', -1, 64))
		} else {
			number, err := json.Marshal(x)
			if err != nil {
				return nil, err
			}
			b = append(b, number...)
		}
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *Values) UnmarshalJSON(b []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	*v = make(Values, len(raw))
	for k, r := range raw {
		s := string(r)
		if len(s) > 1 && s[0] == '"' {
			s = s[1 : len(s)-1]
		}
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("value %q: %s is not a number", k, r)
		}
		(*v)[k] = x
	}
	return nil
}

// Reporter takes the records of a run in order, from one goroutine.
type Reporter interface {
	Update(Record) error
	Close() error
}

// Fan hands every record to each reporter in turn, also after one has failed.
// Nil reporters are left out.
func Fan(reporters ...Reporter) Reporter {
	var f fan
	for _, r := range reporters {
		if r != nil {
			f = append(f, r)
		}
	}
	return f
}

type fan []Reporter

func (f fan) Update(r Record) error {
	var failed error
	for _, to := range f {
		failed = errors.Join(failed, to.Update(r))
	}
	return failed
}

func (f fan) Close() error {
	var failed error
	for _, r := range f {
		failed = errors.Join(failed, r.Close())
	}
	return failed
}

// Stats appends records to stats.jsonl and their wall-clock to timing.jsonl,
// one JSON object per line. Each record is one write to the file, so a killed
// process loses none that Update has taken; a power cut may, back to the last
// Sync.
type Stats struct {
	mu     sync.Mutex
	stats  *os.File
	timing *os.File
	now    func() time.Time
}

// timingRow is a line of timing.jsonl. Positions repeat where a run was
// interrupted and redid steps.
type timingRow struct {
	Position int64     `json:"position"`
	Time     time.Time `json:"time"`
	Seconds  float64   `json:"step_seconds"`
	Wall     Values    `json:"wall,omitempty"`
}

// OpenStats opens both files for appending. A line that a crash left
// unfinished at the end is cut off.
func OpenStats(statsPath, timingPath string) (*Stats, error) {
	s, err := openLines(statsPath)
	if err != nil {
		return nil, err
	}
	t, err := openLines(timingPath)
	if err != nil {
		s.Close()
		return nil, err
	}
	return &Stats{stats: s, timing: t, now: time.Now}, nil
}

func openLines(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	if err := cutTornLine(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func cutTornLine(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	var b [1]byte
	for end > 0 {
		if _, err := f.ReadAt(b[:], end-1); err != nil {
			return err
		}
		if b[0] == '\n' {
			break
		}
		end--
	}
	if end == info.Size() {
		return nil
	}
	return f.Truncate(end)
}

// Update appends one record.
func (s *Stats) Update(r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := appendLine(s.stats, r); err != nil {
		return err
	}
	if r.Took == 0 {
		return nil
	}
	return appendLine(s.timing, timingRow{Position: r.Position, Time: s.now().UTC(), Seconds: r.Took.Seconds(), Wall: r.Wall})
}

func appendLine(f *os.File, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	before, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		f.Truncate(before) // no half line stays behind on a full disk
		return fmt.Errorf("cannot append a record: %w", err)
	}
	return nil
}

// Sync makes all records durable.
func (s *Stats) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.stats.Sync(), s.timing.Sync())
}

// Close syncs and closes both files.
func (s *Stats) Close() error {
	failed := s.Sync()
	return errors.Join(failed, s.stats.Close(), s.timing.Close())
}

// ReadStats reads a stats.jsonl; a missing file has no records. An unfinished
// last line, as a run that is going may show, is ignored.
func ReadStats(path string) (out []Record, err error) {
	err = eachLine(path, func(rec Record) { out = append(out, rec) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

// eachLine reads the lines of a file of JSON; a missing file has none, and an unfinished last one is ignored. An error names
// file and line.
func eachLine[T any](path string, use func(T)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		var v T
		if err == nil {
			err = json.Unmarshal(line, &v)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		use(v)
	}
}
