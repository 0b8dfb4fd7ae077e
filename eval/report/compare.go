package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Verdict compares the best distilled model with its best rival at the same
// number of network calls.
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

// compare judges a against b. Without intervals nothing is clear.
func compare(m Metric, a, b Row) Verdict {
	better := a.Value < b.Value
	if m.Higher {
		better = a.Value > b.Value
	}
	clear := a.apart(b)
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
		order := func(e entry) int { return slices.Index([]Kind{Full, LoRA, Undistilled, Teacher, Real}, e.Kind) }
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
		if !ok || (m.Higher && row.Value > found.Value) || (!m.Higher && row.Value < found.Value) {
			found, ok = row, true
		}
	}
	return found, ok
}

func distilled(e entry) bool { return e.Kind == Full || e.Kind == LoRA }
func rival(e entry) bool     { return e.Kind == Undistilled || e.Kind == Teacher }

// judge compares the table's best distilled row with its best rival.
func (t stepTable) judge(m Metric) (v Verdict, ours, theirs Row) {
	ours, okOurs := best(m, t.Same, distilled)
	theirs, okTheirs := best(m, t.Same, rival)
	if !okOurs || !okTheirs {
		return NoRival, ours, theirs
	}
	return compare(m, ours, theirs), ours, theirs
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

// headline says per metric at how many calls distillation paid.
func (r *Report) headline() []headlineView {
	tables := r.stepTables()
	var out []headlineView
	for _, m := range r.metricsInUse() {
		calls := map[Verdict][]string{}
		for _, t := range tables {
			v, _, _ := t.judge(m)
			calls[v] = append(calls[v], strconv.Itoa(t.Calls))
		}
		view := headlineView{Metric: metricTitle(m)}
		for _, v := range []Verdict{ClearlyBetter, Better, Worse, ClearlyWorse} {
			if n := calls[v]; len(n) > 0 {
				at := "calls"
				if len(n) == 1 && n[0] == "1" {
					at = "call"
				}
				view.Parts = append(view.Parts, headlinePart{v.class(), v.symbol(), fmt.Sprintf("%s at %s %s", v.Words(), enumerate(n), at)})
			}
		}
		if len(view.Parts) > 0 {
			out = append(out, view)
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

// significant formats v with the digits that its interval warrants: two of
// the interval's half-width, and never fewer than the integer part needs.
func significant(v, low, high float64) string {
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
