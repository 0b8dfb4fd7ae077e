package ablation

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"fewstep/eval/report"
)

// Model is a model as all recipes have it: "8step_lora" at 8 steps.
type Model struct {
	Name         string      `json:"model"`
	Kind         report.Kind `json:"kind"`
	Steps, Calls int
}

// Cell is one metric of one model of one recipe, over its seeds.
type Cell struct {
	Recipe     string      `json:"recipe"`
	Model      string      `json:"model"`
	Kind       report.Kind `json:"kind"`
	Steps      int         `json:"steps"`
	Calls      int         `json:"calls"`
	Metric     string      `json:"metric"`
	Convention string      `json:"convention"`
	Seeds      []uint64    `json:"seeds"`
	Values     []float64   `json:"values"`   // by seed
	Mean       float64     `json:"mean"`     //
	Spread     *float64    `json:"spread"`   // standard deviation over the seeds; null of one seed
	Low        *float64    `json:"low"`      // 95 % interval of the value of one seed; null of several
	High       *float64    `json:"high"`     //
	Ratio      *float64    `json:"ratio"`    // mean over the seeds of the value divided by the teacher's; null where it has none
	Compared   []uint64    `json:"compared"` // the seeds that the first recipe has too
	Verdict    string      `json:"verdict"`  // against the first recipe: better or worse where every compared seed says so, else not told apart; "" of the first and where none is compared
}

// Models lists the models of all recipes: by calls, most first, and of equal calls full, LoRA and their rivals.
func (a *Ablation) Models() (out []Model) {
	for _, r := range a.Recipes {
		for _, run := range r.Runs {
			for _, row := range run.Table.Rows {
				m := Model{row.Model, row.Kind, row.Steps, row.Calls}
				if row.Kind != report.Rival && !slices.Contains(out, m) {
					out = append(out, m)
				}
			}
		}
	}
	order := []report.Kind{report.Full, report.LoRA, report.Earlier, report.Undistilled, report.Teacher, report.Real}
	slices.SortStableFunc(out, func(x, y Model) int {
		return cmp.Or(y.Calls-x.Calls, slices.Index(order, x.Kind)-slices.Index(order, y.Kind), y.Steps-x.Steps, strings.Compare(x.Name, y.Name))
	})
	return out
}

// Cells are all numbers, by model, recipe and metric.
func (a *Ablation) Cells() (out []Cell) {
	for _, m := range a.Models() {
		for i := range a.Recipes {
			for _, metric := range a.Metrics {
				if c, ok := a.cell(m, i, metric); ok {
					out = append(out, c)
				}
			}
		}
	}
	return out
}

func (a *Ablation) cell(m Model, recipe int, metric report.Metric) (c Cell, ok bool) {
	c = Cell{Recipe: a.Recipes[recipe].Name, Model: m.Name, Kind: m.Kind, Steps: m.Steps, Calls: m.Calls, Metric: metric.Name, Convention: metric.Convention}
	var ratios []float64
	verdicts := map[report.Verdict]int{}
	for _, run := range a.Recipes[recipe].Runs {
		row, found := run.row(m, metric)
		if !found {
			continue
		}
		c.Seeds, c.Values = append(c.Seeds, run.Config.Seed), append(c.Values, row.Value)
		if row.HasInterval() {
			c.Low, c.High = &row.Low, &row.High
		}
		if t, found := run.teacher(metric); found && t.Value > 0 && m.Kind != report.Real {
			ratios = append(ratios, row.Value/t.Value)
		}
		if recipe == 0 {
			continue
		}
		for _, first := range a.Recipes[0].Runs {
			if first.Config.Seed != run.Config.Seed {
				continue
			}
			if other, found := first.row(m, metric); found {
				c.Compared = append(c.Compared, run.Config.Seed)
				verdicts[report.Compare(metric, row, other)]++
			}
		}
	}
	if len(c.Values) == 0 {
		return c, false
	}
	c.Mean = mean(c.Values)
	if len(c.Values) > 1 {
		c.Low, c.High = nil, nil
		c.Spread = number(deviation(c.Values))
	}
	if len(ratios) == len(c.Values) {
		c.Ratio = number(mean(ratios))
	}
	if len(c.Compared) > 0 {
		c.Verdict = verdict(verdicts, len(c.Compared))
	}
	return c, true
}

// Verdicts of a cell.
const (
	Better  = "better"
	Worse   = "worse"
	NotTold = "not told apart"
)

func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (r *Run) row(m Model, metric report.Metric) (report.Row, bool) {
	for _, row := range r.Table.Rows {
		if (Model{row.Model, row.Kind, row.Steps, row.Calls}) == m && row.Metric == metric.Name && row.Convention == metric.Convention {
			return row, true
		}
	}
	return report.Row{}, false
}

// teacher is the row of the teacher with the most calls, to which ratios refer.
func (r *Run) teacher(metric report.Metric) (found report.Row, ok bool) {
	for _, row := range r.Table.Rows {
		if row.Kind == report.Teacher && row.Metric == metric.Name && row.Convention == metric.Convention && (!ok || row.Calls > found.Calls) {
			found, ok = row, true
		}
	}
	return found, ok
}

// PhaseCell is what one phase did in the runs of one recipe, mean over its seeds.
type PhaseCell struct {
	Recipe        string   `json:"recipe"`
	Stage         string   `json:"stage"`
	Phase         string   `json:"phase"`
	Student       float64  `json:"student_updates"`
	Discriminator float64  `json:"discriminator_updates"`
	Paired        *float64 `json:"paired_accuracy"` // over the last quarter; null where there is none
}

// Phases are the phases of every recipe, in the order of its first run.
func (a *Ablation) Phases() (out []PhaseCell) {
	for _, r := range a.Recipes {
		for _, p := range r.Runs[0].Phases {
			var student, critic, paired []float64
			for _, run := range r.Runs {
				for _, o := range run.Phases {
					if o.Stage == p.Stage && o.Phase == p.Phase {
						student, critic, paired = append(student, float64(o.Student)), append(critic, float64(o.Discriminator)), append(paired, o.Paired)
					}
				}
			}
			out = append(out, PhaseCell{r.Name, p.Stage, p.Phase, mean(student), mean(critic), number(mean(paired))})
		}
	}
	return out
}
