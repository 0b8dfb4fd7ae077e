// Package ablation sets runs of several recipes side by side: every metric of every model, and what each phase did. Runs
// that differ in their seed alone are one row of the table, with the spread from seed to seed.
//
// A recipe is marked better or worse than the first where that holds for every seed, each by the interval of the paired
// difference of two runs of that seed: a rule that a single lucky run cannot satisfy.
package ablation

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/configs"
	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// Run is what one run has measured.
type Run struct {
	Dir    string
	Config *configs.Recipe
	Table  *eval.Table
	Phases []Phase
}

// Phase is what one phase of one run did.
type Phase struct {
	monitor.Moves
	Paired float64 // accuracy of pairs over the last quarter; NaN where it has none
}

// Recipe is a group of runs that differ in their seed alone.
type Recipe struct {
	Name string
	Runs []Run
}

// Ablation is recipes in the order in which they were given; the first is what the others are compared with.
type Ablation struct {
	Recipes []Recipe
	Metrics []report.Metric
	// Notes say what limits the comparison, such as another protocol.
	Notes []string
}

// Read reads runs that have been evaluated and groups them by recipe.
func Read(dirs []string) (*Ablation, error) {
	a := &Ablation{}
	var keys, protocols []string
	for _, dir := range dirs {
		r, err := readRun(dir)
		if err != nil {
			return nil, err
		}
		key := identity(r.Config)
		i := slices.Index(keys, key)
		if i < 0 {
			i = len(keys)
			keys = append(keys, key)
			a.Recipes = append(a.Recipes, Recipe{Name: r.Config.Name})
		}
		for _, o := range a.Recipes[i].Runs {
			if o.Config.Seed == r.Config.Seed {
				return nil, fmt.Errorf("%s and %s are of one recipe and seed: give one of them", o.Dir, r.Dir)
			}
		}
		a.Recipes[i].Runs = append(a.Recipes[i].Runs, *r)
		for _, m := range r.Table.Metrics {
			known := func(o report.Metric) bool { return o.Name == m.Name && o.Convention == m.Convention }
			if !slices.ContainsFunc(a.Metrics, known) {
				a.Metrics = append(a.Metrics, m)
			}
		}
		protocols = append(protocols, r.Table.Protocol)
		if r.Table.Protocol == "" {
			a.Notes = append(a.Notes, dir+" was measured by an earlier version, which does not say by which protocol")
		} else if r.Table.Protocol != protocols[0] {
			a.Notes = append(a.Notes, fmt.Sprintf("%s was measured by another protocol than %s: their values do not compare", dir, dirs[0]))
		}
	}
	a.distinguish()
	a.contradictions()
	return a, nil
}

// contradictions notes models whose pictures were the same in a run and in the main recipe's of that seed, by one metric's bits,
// and whose other metrics differ all the same: one of the two was measured wrongly.
func (a *Ablation) contradictions() {
	models := a.Models()
	for _, r := range a.Recipes[1:] {
		for _, p := range a.pairs(r) {
			for _, m := range models {
				if same, other := p.metrics(m, a.Metrics); len(same) > 0 && len(other) > 0 {
					a.Notes = append(a.Notes, fmt.Sprintf("%s at %d calls drew the same pictures in %s and in %s: %s is the same to the last bit. But these differ, so that one of the two was measured wrongly: %s",
						m.Name, m.Calls, filepath.Base(p.main.Dir), filepath.Base(p.run.Dir), same[0], strings.Join(other, ", ")))
				}
			}
		}
	}
}

// pair is a run of a row and the main recipe's run of its seed.
type pair struct{ run, main Run }

// pairs are those of a recipe, for every seed that both have.
func (a *Ablation) pairs(r Recipe) (out []pair) {
	for _, run := range r.Runs {
		for _, main := range a.main().Runs {
			if main.Config.Seed == run.Config.Seed {
				out = append(out, pair{run, main})
			}
		}
	}
	return out
}

// metrics are those of a model that both runs have alike to the last bit, and those that differ.
func (p pair) metrics(m Model, all []report.Metric) (same, other []string) {
	for _, metric := range all {
		a, inX := p.run.row(m, metric)
		b, inY := p.main.row(m, metric)
		switch {
		case !inX || !inY:
		case a.Value == b.Value:
			same = append(same, metric.Name)
		default:
			other = append(other, metric.Name)
		}
	}
	return same, other
}

// distinguish adds a folder to names that several recipes share.
func (a *Ablation) distinguish() {
	counts := map[string]int{}
	for _, r := range a.Recipes {
		counts[r.Name]++
	}
	for i := range a.Recipes {
		if r := &a.Recipes[i]; counts[r.Name] > 1 {
			r.Name += " (" + filepath.Base(filepath.Clean(r.Runs[0].Dir)) + ")"
		}
	}
}

func readRun(dir string) (*Run, error) {
	d, c, err := eval.ViewRun(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	t, err := eval.ReadTable(d)
	if err != nil {
		return nil, err
	}
	r := &Run{Dir: dir, Config: c, Table: t}
	r.Phases, err = phases(d)
	return r, err
}

// phases counts updates and averages the accuracy of pairs over the last quarter of each phase's records.
func phases(d *rundir.Dir) (out []Phase, err error) {
	records, err := monitor.ReadStats(d.StatsPath())
	if err != nil {
		return nil, err
	}
	for _, m := range monitor.CountMoves(records) {
		var paired []float64
		for _, r := range records {
			if v, ok := r.Values[monitor.Paired]; ok && r.Stage == m.Stage && r.Phase == m.Phase {
				paired = append(paired, v)
			}
		}
		out = append(out, Phase{m, mean(paired[len(paired)*3/4:])})
	}
	return out, nil
}

// identity is a recipe without what tells runs of it apart.
func identity(c *configs.Recipe) string {
	o := *c
	o.Seed, o.Name, o.Eval.Rivals = 0, "", nil
	return o.Hash()
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v)) // NaN of none
}

// deviation is the standard deviation of a sample; NaN of fewer than two.
func deviation(v []float64) float64 {
	m, squares := mean(v), 0.0
	for _, x := range v {
		squares += (x - m) * (x - m)
	}
	if len(v) < 2 {
		return math.NaN()
	}
	return math.Sqrt(squares / float64(len(v)-1))
}
