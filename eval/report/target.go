package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"fewstep/eval/stats"
)

// targets bound the ratio of a distilled model to its teacher, by what a metric measures: the best ends, rounded, of the
// ranges that SDXL-Lightning reports (arXiv 2402.13929, 10,000 captions of COCO) at 8, 4, 2 and 1 steps.
var targets = map[string]float64{"FID-Whole": 1.16, "FID-Patch": 0.95, "CLIP score": 0.985}

// A LoRA is to be within this part of the full model of as many steps, from loraFrom steps on.
const (
	loraPart = 0.05
	loraFrom = 4
)

// Reach says whether a ratio's 95 % interval lies on the good side of its target.
type Reach string

const (
	Met       Reach = "met"
	Missed    Reach = "missed"
	Undecided Reach = "undecided" // the interval holds the target, or there is none
)

// Target is the ratio of one distilled model's metric to what it is to be like, beside the bound that is asked for.
type Target struct {
	Model  string  `json:"model"`
	Kind   Kind    `json:"kind"`
	Steps  int     `json:"steps"`
	Metric Metric  `json:"-"`
	To     string  `json:"to"` // model that the ratio refers to: the teacher, or of a LoRA the full model
	Ratio  float64 `json:"ratio"`
	Low    float64 `json:"low"` // 95 % interval; NaN: none
	High   float64 `json:"high"`
	Bound  float64 `json:"bound"`
	Reach  Reach   `json:"reach"`
}

// Asks says the bound in words: "≤ 1.16".
func (t Target) Asks() string {
	sign := "≤ "
	if t.Metric.Higher {
		sign = "≥ "
	}
	return sign + strconv.FormatFloat(t.Bound, 'g', -1, 64)
}

// Figure is the ratio with its interval, for people.
func (t Target) Figure() string {
	text := fmt.Sprintf("%.2f", t.Ratio)
	if !math.IsNaN(t.Low) {
		text += fmt.Sprintf(" (%.2f–%.2f)", t.Low, t.High)
	}
	return text
}

// Targets judges every distilled model of 8, 4, 2 or 1 steps by its ratio to the teacher with the most calls, and LoRAs of
// 8 and 4 steps by their ratio to the full model. Rows of metrics without a target are left out.
func Targets(rows []Row, metrics []Metric) (out []Target) {
	r := Report{Rows: rows, Metrics: metrics}
	for _, steps := range []int{8, 4, 2, 1} {
		for _, m := range r.metricsInUse() {
			bound, ok := targets[cmp.Or(m.Counterpart, m.Name)]
			if !ok || m.Diagnostic {
				continue
			}
			teacher, ok := r.teacherRow(m)
			if !ok {
				continue
			}
			var full *Row
			for _, kind := range []Kind{Full, LoRA} {
				for _, row := range rows {
					if row.Kind != kind || row.Steps != steps || r.metric(row.Metric, row.Convention) != m {
						continue
					}
					out = append(out, target(m, row, teacher, bound))
					switch {
					case kind == Full && full == nil:
						full = &row
					case kind == LoRA && full != nil && steps >= loraFrom:
						near := 1 + loraPart
						if m.Higher {
							near = 1 - loraPart
						}
						out = append(out, target(m, row, *full, near))
					}
				}
			}
		}
	}
	return slices.DeleteFunc(out, func(t Target) bool { return math.IsNaN(t.Ratio) || math.IsInf(t.Ratio, 0) })
}

// target judges one ratio. Two rows of one noise err alike, so the ratio is known better than either: its interval follows
// from the influences of the samples, those of a minus ratio times those of b. Where they are not known it is that of the two
// rows' worst ends.
func target(m Metric, a, b Row, bound float64) Target {
	t := Target{Model: a.Model, Kind: a.Kind, Steps: a.Steps, Metric: m, To: b.Model, Ratio: a.Value / b.Value, Bound: bound, Reach: Undecided}
	t.Low, t.High = a.Low/b.High, a.High/b.Low
	scaled := func(r Row, by float64) Row {
		r.Influences = slices.Clone(r.Influences)
		r.Value *= by
		for i := range r.Influences {
			r.Influences[i] *= float32(by)
		}
		return r
	}
	var d stats.Interval
	d, ok := scaled(a, 1/b.Value).difference(scaled(b, t.Ratio/b.Value))
	if ok {
		t.Low, t.High = t.Ratio+d.Low, t.Ratio+d.High
	}
	switch {
	case math.IsNaN(t.Low) || math.IsNaN(t.High):
		t.Low, t.High = math.NaN(), math.NaN()
	case m.Higher && t.Low >= bound, !m.Higher && t.High <= bound:
		t.Reach = Met
	case m.Higher && t.High < bound, !m.Higher && t.Low > bound:
		t.Reach = Missed
	}
	return t
}

// targetsView is the page's table of targets.
type targetsView struct {
	Metrics []Metric
	Rows    []targetRow
}

type targetRow struct {
	Steps     int
	Model, To string
	Cells     []targetCell // by metric
}

type targetCell struct{ Figure, Asks, Class, Symbol, Words string }

func (r *Report) viewTargets() (v targetsView) {
	all := Targets(r.Rows, r.Metrics)
	for _, t := range all {
		if !slices.Contains(v.Metrics, t.Metric) {
			v.Metrics = append(v.Metrics, t.Metric)
		}
	}
	for _, t := range all {
		i := slices.IndexFunc(v.Rows, func(o targetRow) bool { return o.Steps == t.Steps && o.Model == t.Model && o.To == t.To })
		if i < 0 {
			i = len(v.Rows)
			v.Rows = append(v.Rows, targetRow{t.Steps, t.Model, t.To, make([]targetCell, len(v.Metrics))})
		}
		verdict := map[Reach]Verdict{Met: ClearlyBetter, Missed: ClearlyWorse, Undecided: Better}[t.Reach]
		v.Rows[i].Cells[slices.Index(v.Metrics, t.Metric)] = targetCell{t.Figure(), t.Asks(), verdict.class(), verdict.symbol(), string(t.Reach)}
	}
	return v
}

// MarshalJSON names the metric and writes no interval as null.
func (t Target) MarshalJSON() ([]byte, error) {
	type plain Target // without this method
	known := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	return json.Marshal(struct {
		plain
		Metric     string   `json:"metric"`
		Convention string   `json:"convention"`
		Low        *float64 `json:"low"`
		High       *float64 `json:"high"`
	}{plain(t), t.Metric.Name, t.Metric.Convention, known(t.Low), known(t.High)})
}
