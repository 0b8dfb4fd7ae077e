package monitor

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Style is how progress is shown.
type Style string

const (
	StyleAuto  Style = ""      // a bar on a terminal, else lines
	StyleBar   Style = "bar"   // one line per phase, redrawn
	StyleLines Style = "lines" // a plain line every few seconds
	StyleJSON  Style = "json"  // a JSON object every few seconds
)

// Progress shows stage, phase, samples, speed, time left, losses,
// discriminator accuracy and logit gap on one line. It never fails: training
// goes on where nobody reads any more, or what is shown finds no space.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	style Style
	every time.Duration
	now   func() time.Time

	stage, phase string
	seen         []mark // of this phase, the last rateWindow
	last         Record
	shown        time.Time
	pending      bool   // last is newer than what was shown
	ended        bool   // the phase's last samples were shown
	parts        string // of the last step in which they were measured

	container *mpb.Progress
	bar       *mpb.Bar
	text      *atomic.Value // the bar's line, read from its own goroutine
}

type mark struct {
	at       time.Time
	position int64
}

// The speed is an average over this time, or over the last two records where
// they are further apart.
const rateWindow = 30 * time.Second

// NewProgress shows progress on w, which is stderr as a rule; where it has a
// method Fd, that tells whether it is a terminal. In the styles
// lines and json, a line comes at least every so often (0 means 10 s) and at
// the beginning and end of each phase.
func NewProgress(w io.Writer, style Style, every time.Duration) *Progress {
	if every <= 0 {
		every = 10 * time.Second
	}
	p := &Progress{out: w, style: style, every: every, now: time.Now}
	if style == StyleAuto {
		p.style = StyleLines
		if terminal(w).IsTerminal() {
			p.style = StyleBar
		}
	}
	if p.style == StyleBar {
		p.container = mpb.New(mpb.WithConsoleWriter(terminal(w)), mpb.WithAutoRefresh(), mpb.PopCompletedMode())
	}
	return p
}

// terminal is what bars draw on; it need not be a file, but may stand for one.
func terminal(w io.Writer) *cupwriter.Writer {
	out := cupwriter.New(w, false)
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		out.SetTermFd(int(f.Fd()))
	}
	return out
}

// Writer is where log lines go while progress is shown: above the bar.
func (p *Progress) Writer() io.Writer { return aboveBar{p} }

type aboveBar struct{ p *Progress }

func (a aboveBar) Write(b []byte) (int, error) {
	if a.p.container != nil {
		if n, err := a.p.container.Write(b); err == nil {
			return n, nil
		}
	}
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	return a.p.out.Write(b)
}

// Update shows r, or keeps it to be shown.
func (p *Progress) Update(r Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if r.Stage != p.stage || r.Phase != p.phase {
		p.finish()
		p.stage, p.phase, p.seen, p.shown, p.ended = r.Stage, r.Phase, nil, time.Time{}, false
		p.last, p.parts = Record{}, ""
	}
	if r.Kind != KindStep { // keep the losses of the last step on the line
		r.Values, r.Wall = p.last.Values, p.last.Wall
	}
	p.seen = append(p.seen, mark{now, r.Position})
	for len(p.seen) > 2 && now.Sub(p.seen[0].at) > rateWindow {
		p.seen = p.seen[1:]
	}
	p.last, p.pending = r, true
	if s := parts(r.Wall); s != "" {
		p.parts = s
	}
	if p.style == StyleBar {
		p.draw()
		return nil
	}
	ends := r.Samples >= r.Total && !p.ended
	if !p.shown.IsZero() && now.Sub(p.shown) < p.every && !ends {
		return nil
	}
	p.ended = r.Samples >= r.Total
	p.print()
	return nil
}

// finish shows the last record of a phase where it was not, and ends its bar.
func (p *Progress) finish() {
	if p.bar != nil {
		p.bar.Abort(false)
		p.bar.Wait()
		p.bar = nil
		return
	}
	if p.pending && !p.ended {
		p.print()
	}
}

// Close shows the last record and ends the bar.
func (p *Progress) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	if p.container != nil {
		p.container.Wait()
		p.container = nil
	}
	return nil
}

func (p *Progress) draw() {
	text := " " + line(p.last, p.rate()) + p.parts
	if p.bar != nil {
		p.text.Store(text)
	} else {
		own := &atomic.Value{} // a bar that has ended keeps its last line
		own.Store(text)
		p.text = own
		bar, err := p.container.Add(max(p.last.Total, 1), mpb.BarStyle().Build(),
			mpb.BarWidth(24), mpb.BarFillerTrim(),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
				return own.Load().(string)
			})))
		if err != nil { // the terminal is gone, and the bars with it
			p.container, p.style = nil, StyleLines
			p.print()
			return
		}
		p.bar = bar
	}
	p.bar.SetCurrent(min(p.last.Samples, max(p.last.Total, 1)))
}

func (p *Progress) print() {
	p.shown, p.pending = p.now(), false
	if p.style != StyleJSON {
		_, _ = fmt.Fprintln(p.out, line(p.last, p.rate())+p.parts)
		return
	}
	row := progressRow{Time: p.shown.UTC(), Record: p.last, Wall: p.last.Wall}
	if rate := p.rate(); rate > 0 {
		row.Rate = rate
		row.ETA = left(p.last.Samples, p.last.Total, rate).Seconds()
		row.RunETA = left(p.last.Position, p.last.RunTotal, rate).Seconds()
	}
	_ = json.NewEncoder(p.out).Encode(row)
}

// progressRow is a line in the style json.
type progressRow struct {
	Time time.Time `json:"time"`
	Record
	Rate   float64 `json:"samples_per_second,omitempty"`
	Wall   Values  `json:"wall,omitempty"`
	ETA    float64 `json:"eta_seconds,omitempty"`     // of the phase
	RunETA float64 `json:"run_eta_seconds,omitempty"` // of the run, at this phase's speed
}

// rate is in samples per second; 0 is unknown.
func (p *Progress) rate() float64 {
	if len(p.seen) == 0 {
		return 0
	}
	first, last := p.seen[0], p.seen[len(p.seen)-1]
	if s := last.at.Sub(first.at).Seconds(); s > 0 {
		return float64(last.position-first.position) / s
	}
	return 0
}

func left(done, total int64, rate float64) time.Duration {
	if rate <= 0 || total <= done {
		return 0
	}
	return time.Duration(math.Min(float64(total-done)/rate, 1e9) * float64(time.Second))
}

// line is "8to4 lora-cond 1280/5000 26% 133.2/s eta 28s loss_d 1.386 ...".
func line(r Record, rate float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %d/%d", r.Stage, r.Phase, r.Samples, r.Total)
	if r.Total > 0 {
		fmt.Fprintf(&b, " %d%%", 100*r.Samples/r.Total)
	}
	if rate > 0 {
		fmt.Fprintf(&b, " %.4g/s", rate)
		if eta := left(r.Samples, r.Total, rate); eta > 0 {
			fmt.Fprintf(&b, " eta %s", short(eta))
		}
		if eta := left(r.Position, r.RunTotal, rate); eta > 0 && r.RunTotal-r.Position > r.Total-r.Samples {
			fmt.Fprintf(&b, " (run %s)", short(eta))
		}
	}
	for _, key := range []string{Loss, LossD, LossG, Accuracy, Paired, Gap, GradNorm} {
		if v, ok := r.Values[key]; ok {
			fmt.Fprintf(&b, " %s %.4g", key, v)
		}
	}
	if v, ok := r.Values[StudentUpdates]; ok && v < FewUpdates {
		fmt.Fprintf(&b, " (student moved %g×)", v)
	}
	if v, ok := r.Wall[TFLOPs]; ok {
		fmt.Fprintf(&b, " %.3g TFLOP/s", v)
	}
	if v, ok := r.Wall[MFU]; ok {
		fmt.Fprintf(&b, " mfu %.0f%%", 100*v)
	}
	if v, ok := r.Wall[MemoryPeak]; ok {
		fmt.Fprintf(&b, " mem %.2g GB", v/1e9)
	}
	if v, ok := r.Wall[GoodputNow]; ok {
		fmt.Fprintf(&b, " goodput %.0f%%", 100*v)
	}
	return b.String()
}

// parts is " data 1% teacher 30% disc 40% student 23% update 6%" of a step in which they were measured, else "".
func parts(wall Values) string {
	names := []struct{ key, short string }{{DataSeconds, "data"}, {TeacherSeconds, "teacher"}, {DiscriminatorSeconds, "disc"}, {StudentSeconds, "student"}, {UpdateSeconds, "update"}}
	total := 0.0
	for _, n := range names {
		total += wall[n.key]
	}
	if total <= 0 {
		return ""
	}
	var b strings.Builder
	for _, n := range names {
		if v, ok := wall[n.key]; ok {
			fmt.Fprintf(&b, " %s %.0f%%", n.short, 100*v/total)
		}
	}
	return b.String()
}

// short is a duration to two units at most: 42s, 3m05s, 2h07m, 3d04h.
func short(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}
