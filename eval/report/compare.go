package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Verdict compares the best distilled model with the best model of an opponent at the same number of network calls.
type Verdict int

const (
	NoRival Verdict = iota
	ClearlyWorse
	Worse
	Better
	ClearlyBetter
)

// Words says a verdict in words; clear means that the difference is larger than its uncertainty (see Row.apart).
func (v Verdict) Words() string {
	return [...]string{"no rival", "clearly worse", "worse, within uncertainty", "better, within uncertainty", "clearly better"}[v]
}

func (v Verdict) class() string  { return [...]string{"", "bad", "mid", "mid", "good"}[v] }
func (v Verdict) symbol() string { return [...]string{"", "✗", "≈", "≈", "✓"}[v] }

// off is a row of a metric with an ideal as its distance from that, so that less is better.
func (m Metric) off(r Row) Row {
	if m.Ideal == 0 {
		return r
	}
	below := r.Value < m.Ideal
	r.Value = math.Abs(r.Value - m.Ideal)
	if low, high := r.Low-m.Ideal, r.High-m.Ideal; below {
		r.Low, r.High = -high, -low
	} else {
		r.Low, r.High = low, high
	}
	if below {
		r.Influences = slices.Clone(r.Influences)
		for i := range r.Influences {
			r.Influences[i] = -r.Influences[i]
		}
	}
	return r
}

// better tells whether a is better than b.
func (m Metric) better(a, b Row) bool {
	if m.Higher {
		return a.Value > b.Value
	}
	return m.off(a).Value < m.off(b).Value
}

// Compare judges a against b. Without intervals nothing is clear.
func Compare(m Metric, a, b Row) Verdict {
	better := m.better(a, b)
	clear := m.off(a).apart(m.off(b))
	switch {
	case better && clear:
		return ClearlyBetter
	case better:
		return Better
	case clear:
		return ClearlyWorse
	}
	return Worse
}

// entry is one model at one step count with its rows by metric.
type entry struct {
	Model, Note  string
	Kind         Kind
	Steps, Calls int
	Samples      int
	rows         map[Metric]Row
}

// Label names an entry for people.
func (e entry) Label() string {
	switch e.Kind {
	case Real:
		return "Real images"
	case Full:
		return "Distilled, full"
	case LoRA:
		return "Distilled, LoRA"
	case Earlier:
		return "Earlier student, no further training"
	case Rival:
		return "Other run"
	case Teacher:
		return "Teacher" + guidance(e.Steps, e.Calls)
	}
	return "Undistilled" + guidance(e.Steps, e.Calls)
}

func guidance(steps, calls int) string {
	if steps > 0 && calls >= 2*steps {
		return ", guided"
	}
	return ", unguided"
}

// entries groups rows into models, in order of first appearance.
func (r *Report) entries(rows []Row) []entry {
	var out []entry
	for _, row := range rows {
		i := slices.IndexFunc(out, func(e entry) bool {
			return e.Model == row.Model && e.Kind == row.Kind && e.Steps == row.Steps && e.Calls == row.Calls
		})
		if i < 0 {
			i = len(out)
			out = append(out, entry{Model: row.Model, Kind: row.Kind, Steps: row.Steps, Calls: row.Calls, Samples: row.Samples, rows: map[Metric]Row{}})
		}
		out[i].rows[r.metric(row.Metric, row.Convention)] = row
	}
	return out
}

// stepTable sets a distilled model's rows beside their rivals.
type stepTable struct {
	Steps, Calls int
	Same         []entry // as many network calls: the fair comparison
	Others       []entry // more calls: same steps with guidance, the teacher
	Floor        []entry
	Published    []entry
}

// stepTables makes one table per step count of a distilled model, most steps
// first.
func (r *Report) stepTables() []stepTable {
	all := r.entries(r.Rows)
	var tables []stepTable
	for _, e := range all {
		if (e.Kind == Full || e.Kind == LoRA) && !slices.ContainsFunc(tables, func(t stepTable) bool { return t.Steps == e.Steps && t.Calls == e.Calls }) {
			tables = append(tables, stepTable{Steps: e.Steps, Calls: e.Calls})
		}
	}
	slices.SortFunc(tables, func(a, b stepTable) int { return cmp.Or(b.Steps-a.Steps, a.Calls-b.Calls) })
	for i := range tables {
		t := &tables[i]
		for _, e := range all {
			switch {
			case e.Kind == Real:
				t.Floor = append(t.Floor, e)
			case e.Kind == Full || e.Kind == LoRA:
				if e.Steps == t.Steps && e.Calls == t.Calls {
					t.Same = append(t.Same, e)
				}
			case e.Calls == t.Calls:
				t.Same = append(t.Same, e)
			case e.Kind == Teacher || e.Steps == t.Steps:
				t.Others = append(t.Others, e)
			}
		}
		order := func(e entry) int {
			return slices.Index([]Kind{Full, LoRA, Rival, Earlier, Undistilled, Teacher, Real}, e.Kind)
		}
		slices.SortStableFunc(t.Same, func(a, b entry) int { return order(a) - order(b) })
		t.Published = r.published(t.Steps)
	}
	return tables
}

// best returns the best row of a metric among entries that satisfy keep.
func best(m Metric, entries []entry, keep func(entry) bool) (Row, bool) {
	var found Row
	ok := false
	for _, e := range entries {
		row, has := e.rows[m]
		if !has || !keep(e) {
			continue
		}
		if !ok || m.better(row, found) {
			found, ok = row, true
		}
	}
	return found, ok
}

func distilled(e entry) bool { return e.Kind == Full || e.Kind == LoRA }

// opponent is a group of models that the run's own are judged against.
type opponent struct {
	Name string
	has  func(entry) bool
}

// opponents are the undistilled teacher, students of more steps without further training, and other runs, as far as there
// are rows of them.
func (r *Report) opponents() []opponent {
	var out []opponent
	add := func(name string, has func(entry) bool) {
		if !slices.ContainsFunc(out, func(o opponent) bool { return o.Name == name }) {
			out = append(out, opponent{name, has})
		}
	}
	all := r.entries(r.Rows)
	slices.SortStableFunc(all, func(a, b entry) int { return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind) })
	for _, e := range all {
		switch e.Kind {
		case Teacher, Undistilled:
			add("the undistilled teacher", func(e entry) bool { return e.Kind == Teacher || e.Kind == Undistilled })
		case Earlier:
			add("the "+e.Model+" student without further training", func(o entry) bool { return o.Kind == Earlier && o.Model == e.Model })
		case Rival:
			run := runOf(e.Model)
			add("the run "+run, func(o entry) bool { return o.Kind == Rival && runOf(o.Model) == run })
		}
	}
	return out
}

// runOf is the run of a rival's name RUN/MODEL.
func runOf(model string) string { return model[:max(strings.LastIndexByte(model, '/'), 0)] }

// judge compares the table's best distilled row with the opponent's best.
func (t stepTable) judge(m Metric, o opponent) (v Verdict, ours, theirs Row) {
	ours, okOurs := best(m, t.Same, distilled)
	theirs, okTheirs := best(m, t.Same, o.has)
	if !okOurs || !okTheirs {
		return NoRival, ours, theirs
	}
	return Compare(m, ours, theirs), ours, theirs
}

// teacherRow is the row that ratios refer to: the teacher with the most steps.
func (r *Report) teacherRow(m Metric) (Row, bool) {
	var found Row
	ok := false
	for _, row := range r.Rows {
		if row.Kind == Teacher && r.metric(row.Metric, row.Convention) == m && (!ok || row.Calls > found.Calls) {
			found, ok = row, true
		}
	}
	return found, ok
}

// headline says per opponent and metric at how many calls distillation paid.
func (r *Report) headline() []headlineView {
	tables := r.stepTables()
	var out []headlineView
	for _, o := range r.opponents() {
		group := headlineView{Opponent: o.Name}
		for _, m := range r.judged() {
			calls := map[Verdict][]string{}
			for _, t := range tables {
				v, _, _ := t.judge(m, o)
				calls[v] = append(calls[v], strconv.Itoa(t.Calls))
			}
			line := headlineMetric{Metric: metricTitle(m)}
			for _, v := range []Verdict{ClearlyBetter, Better, Worse, ClearlyWorse} {
				if n := calls[v]; len(n) > 0 {
					at := "calls"
					if len(n) == 1 && n[0] == "1" {
						at = "call"
					}
					line.Parts = append(line.Parts, headlinePart{v.class(), v.symbol(), fmt.Sprintf("%s at %s %s", v.Words(), enumerate(n), at)})
				}
			}
			if len(line.Parts) > 0 {
				group.Metrics = append(group.Metrics, line)
			}
		}
		if len(group.Metrics) > 0 {
			out = append(out, group)
		}
	}
	return out
}

func metricTitle(m Metric) string { return m.Name + " [" + m.Convention + "]" }

// enumerate writes "8, 4 and 2".
func enumerate(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:len(items)-1], ", ") + " and " + items[len(items)-1]
}

// Significant formats v with the digits that its interval warrants: two of
// the interval's half-width, and never fewer than the integer part needs.
func Significant(v, low, high float64) string {
	half := (high - low) / 2
	if math.IsNaN(half) || half <= 0 {
		half = math.Abs(v) / 100
	}
	if half <= 0 {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	decimals := min(max(1-int(math.Floor(math.Log10(half))), 0), 6)
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// Judged is how the best distilled model of a number of calls stands against the best of an opponent.
type Judged struct {
	Opponent string
	Calls    int
	Metric   Metric
	Verdict  Verdict
}

// Judge compares the distilled models among rows with every opponent, as the page's headline does. Where an opponent has no
// model of as many calls there is no verdict.
func Judge(rows []Row, metrics []Metric) (out []Judged) {
	r := Report{Rows: rows, Metrics: metrics}
	for _, o := range r.opponents() {
		for _, t := range r.stepTables() {
			for _, m := range r.judged() {
				if v, _, _ := t.judge(m, o); v != NoRival {
					out = append(out, Judged{o.Name, t.Calls, m, v})
				}
			}
		}
	}
	return out
}
