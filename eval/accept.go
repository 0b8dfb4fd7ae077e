package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/internal/atomicfile"
)

// Acceptance tells whether a benchmark, which is a teacher, its data and the protocol, can tell a good model from a bad
// one. It is asked before any ladder is judged by it.
type Acceptance struct {
	Metrics  []report.Metric `json:"metrics"`
	Rows     []AcceptedRow   `json:"rows"`
	Criteria []Criterion     `json:"criteria"`
	Facts    []report.Fact   `json:"facts"`
}

// AcceptedRow is a set of images and its figures by metric.
type AcceptedRow struct {
	Name   string  `json:"name"`
	Values []Value `json:"values"`
}

// Criterion is one thing that the benchmark must show.
type Criterion struct {
	Name   string `json:"name"`
	Metric string `json:"metric"`
	Met    bool   `json:"met"`
	Text   string `json:"text"` // the figures, or why there are none
}

// Unmet is how many criteria are not met.
func (a *Acceptance) Unmet() (n int) {
	for _, c := range a.Criteria {
		if !c.Met {
			n++
		}
	}
	return n
}

// Write writes acceptance.md and acceptance.json into a folder.
func (a *Acceptance) Write(dir string) error {
	raw, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, "acceptance.json"), append(raw, '\n')); err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, "acceptance.md"), []byte(a.Markdown()))
}

// room is how many times as far from the real images as the teacher the undistilled network must be at 8 calls: else there
// is nothing for distillation to win.
const room = 2

// roomCalls are the calls at which that is asked.
const roomCalls = 8

// Accept measures held-out real images as they are and damaged, the teacher at its steps and its network at 8 calls, and
// judges:
//
//   - room: at 8 calls, guided or not, the undistilled network is at least twice as far as the teacher (FD-Whole);
//   - floor: held-out real images are clearly nearer than the teacher, in every distance of whole images;
//   - blur, noise and half of the objects missing are each clearly worse than the images as they are, in every distance,
//     in the Laplacian's energy, and where objects are missing in the CLIP score; wrong captions in the CLIP score.
//
// Clearly means that the 95 % interval of the difference excludes zero. What cannot be measured is not met.
func (v *Evaluation) Accept(ctx context.Context) (*Acceptance, error) {
	s, p := v.spec, v.protocol
	if s.Captions != nil || s.Base == nil || p.held == nil {
		return nil, errors.New("the acceptance test needs a teacher and a captioned data set with the splits train and eval")
	}
	e := s.Config.Eval
	teacher := s.undistilled()[0]
	quick := func(steps int, guidance float64) Entry {
		q := teacher
		q.Kind, q.Steps, q.Guidance = report.Undistilled, steps, guidance
		return q
	}
	entries := []Entry{teacher, quick(roomCalls, 0)}
	if e.Guidance > 1 {
		entries = append(entries, quick(roomCalls/2, e.Guidance))
	}
	rows, err := v.measure(ctx, entries)
	if err != nil {
		return nil, err
	}
	a := &acceptance{Acceptance{Metrics: p.judge.Metrics(), Facts: p.facts}}
	floor := a.add("held-out real images", p.floor)
	best := a.add(fmt.Sprintf("teacher, %d steps, %d calls", teacher.Steps, teacher.calls()), rows[0].Values)
	var few []AcceptedRow
	for i, q := range entries[1:] {
		few = append(few, a.add(fmt.Sprintf("undistilled, %d steps, %d calls", q.Steps, q.calls()), rows[1+i].Values))
	}
	a.room(best, few)
	for _, m := range a.Metrics {
		if wholeDistance(m.Name) {
			a.clearly("the floor is below the teacher", m, floor, best)
		}
	}
	if err := v.damaged(ctx, a, floor); err != nil {
		return nil, err
	}
	if j, ok := p.judge.(*miniJudge); ok && j.independent == nil {
		a.Criteria = append(a.Criteria, Criterion{Name: "an independent network agrees", Text: "not measured: no independent network was there; see eval.inception and scripts/fetch_nsfwjs.py"})
	}
	return &a.Acceptance, nil
}

func wholeDistance(m string) bool { return distance(m) && m != metric.Patch }
func distance(m string) bool      { return strings.HasPrefix(m, "FD") || strings.HasPrefix(m, "FID") }

// damaged measures the floor's images with each damage beside them as they are.
func (v *Evaluation) damaged(ctx context.Context, a *acceptance, floor AcceptedRow) error {
	s, p := v.spec, v.protocol
	pixels := func(m string) bool { return m == metric.Sharpness }
	score := func(m string) bool { return m == metric.Score }
	all := damages(p.settings.Seed, distance, pixels, score)
	for i, d := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		var set imageSource = p.held.set
		captions := p.held.captions
		if d.change == nil {
			captions = wrongCaptions(captions)
		} else {
			set = changed{p.held.set, d}
		}
		distinct := map[int]bool{}
		for _, r := range p.held.rows {
			distinct[r] = true
		}
		features, err := measureReal(ctx, p.judge, set, p.held.rows, p.resolution, func(done int) {
			s.report(Progress{Model: d.Name, Row: i + 1, Rows: len(all), Done: done, Total: len(distinct)})
		})
		if errors.Is(err, errNoObjects) {
			a.Criteria = append(a.Criteria, Criterion{Name: d.Name + " is worse than the floor", Text: "not measured: " + firstLine(err)})
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		texts, err := p.judge.Captions(captions)
		if err != nil {
			return err
		}
		values, err := p.judge.Measure(features, texts, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		row := a.add(d.Name, floorValues(values))
		for _, m := range a.Metrics {
			if d.seen(m.Name) {
				a.clearly(d.Name+" is worse than the floor", m, floor, row)
			}
		}
	}
	return nil
}

// firstLine is an error's first line: what is said of every image is said once.
func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// acceptance is one that is being made.
type acceptance struct{ Acceptance }

func (a *acceptance) add(name string, values []Value) AcceptedRow {
	r := AcceptedRow{name, values}
	a.Rows = append(a.Rows, r)
	return r
}

// row is a value as reports compare it.
func (r AcceptedRow) row(m report.Metric) (report.Row, bool) {
	for _, v := range r.Values {
		if v.Metric == m.Name {
			return v.row(Column{Model: r.Name, Kind: report.Real}, m.Convention), true
		}
	}
	return report.Row{}, false
}

// clearly asks that one set of images is clearly better than another.
func (a *acceptance) clearly(name string, m report.Metric, better, worse AcceptedRow) {
	c := Criterion{Name: name, Metric: m.Name}
	x, okX := better.row(m)
	y, okY := worse.row(m)
	if c.Text = "not measured"; okX && okY {
		verdict := report.Compare(m, x, y)
		c.Met = verdict == report.ClearlyBetter
		c.Text = fmt.Sprintf("%s against %s: %s", figure(x), figure(y), verdict.Words())
	}
	a.Criteria = append(a.Criteria, c)
}

// room asks that there is something to win.
func (a *acceptance) room(teacher AcceptedRow, few []AcceptedRow) {
	c := Criterion{Name: fmt.Sprintf("undistilled at %d calls, at best, is %d times as far as the teacher", roomCalls, room), Metric: metric.Whole, Text: "not measured"}
	m := report.Metric{Name: metric.Whole, Convention: metric.Convention}
	t, ok := teacher.row(m)
	var best *report.Row
	for _, f := range few {
		if r, have := f.row(m); have && (best == nil || r.Value < best.Value) {
			best = &r
		}
	}
	if ok && best != nil && t.Value > 0 {
		c.Met = best.Value >= room*t.Value
		c.Text = fmt.Sprintf("%s against %s: ×%.2f", figure(*best), figure(t), best.Value/t.Value)
	}
	a.Criteria = append(a.Criteria, c)
}

// figure is a value with its interval, for people.
func figure(r report.Row) string {
	text := report.Significant(r.Value, r.Low, r.High)
	if r.HasInterval() {
		text += " (" + report.Significant(r.Low, r.Low, r.High) + " to " + report.Significant(r.High, r.Low, r.High) + ")"
	}
	return text
}

// Markdown is the acceptance for people: the figures, then what they show.
func (a *Acceptance) Markdown() string {
	var b strings.Builder
	b.WriteString("| images |")
	var metrics []report.Metric
	for _, m := range a.Metrics {
		for _, r := range a.Rows {
			if _, ok := r.row(m); ok {
				metrics = append(metrics, m)
				fmt.Fprintf(&b, " %s (%s) |", m.Name, m.Direction())
				break
			}
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(metrics)) + "\n")
	for _, r := range a.Rows {
		fmt.Fprintf(&b, "| %s |", r.Name)
		for _, m := range metrics {
			text := "–"
			if row, ok := r.row(m); ok {
				text = figure(row)
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n| met | criterion | by | figures |\n|---|---|---|---|\n")
	for _, c := range a.Criteria {
		sign := "✗"
		if c.Met {
			sign = "✓"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", sign, c.Name, c.Metric, c.Text)
	}
	return b.String()
}
