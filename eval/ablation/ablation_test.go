package ablation

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/eval/report"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// evaluated is an invented run with a teacher, a full model at 4 steps of the given distance, and one adversarial phase of
// 8 updates in which the student moved as often as told. All distances err alike, as rows of one noise do.
func evaluated(t *testing.T, name string, seed uint64, distance float64, moved int, protocol string) string {
	t.Helper()
	c := configs.Default()
	c.Name, c.Seed, c.Model, c.Data.Source = name, seed, "m", "d"
	for i, letter := range name { // another name, another recipe
		c.Stages[1].Phases[0].LR += float64(i+1) * float64(letter)
	}
	dir := filepath.Join(t.TempDir(), fmt.Sprintf("%s-%d", name, seed))
	d, err := rundir.Open(dir, c.Resolved(), rundir.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	type object = map[string]any
	values := func(v float64) []object {
		influences := make([]float64, 64)
		for i := range influences {
			influences[i] = math.Sin(float64(i)) + 0.01*v*math.Cos(float64(3*i)+float64(seed))
		}
		return []object{{"metric": "FD", "value": v, "Low": v - 0.5, "High": v + 0.5, "samples": 64, "influences": influences}}
	}
	raw, err := json.Marshal(object{
		"metrics":  []object{{"metric": "FD", "convention": "mini-clip"}},
		"protocol": protocol,
		"results": []object{
			{"column": object{"model": "teacher", "kind": report.Teacher, "steps": 32, "calls": 64}, "values": values(2)},
			{"column": object{"model": "4step", "kind": report.Full, "steps": 4, "calls": 4}, "values": values(distance)},
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SaveArtifact(rundir.Report, rundir.Bytes("table.json", raw)); err != nil {
		t.Fatal(err)
	}
	s, err := monitor.OpenStats(d.StatsPath(), d.TimingPath())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		v := monitor.Values{monitor.LossD: 1, monitor.Paired: 0.1 * float64(i)}
		if i < moved {
			v[monitor.LossG] = 1
		}
		if err := s.Update(monitor.Record{Kind: monitor.KindStep, Stage: "8", Phase: "lora-cond", Samples: int64(i + 1), Total: 8, Values: v}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Seeds of one recipe are one row with a mean and a spread; a recipe is better only where every seed says so.
func TestSeedsArePutTogether(t *testing.T) {
	a, err := Read([]string{
		evaluated(t, "first", 1, 3, 8, "p"), evaluated(t, "first", 2, 3.2, 8, "p"),
		evaluated(t, "better", 1, 2.5, 2, "p"), evaluated(t, "better", 2, 2.9, 4, "p"),
		evaluated(t, "mixed-", 1, 2.5, 8, "p"), evaluated(t, "mixed-", 2, 3.4, 8, "p"),
		evaluated(t, "worse-one", 1, 4, 8, "p"),
		evaluated(t, "alone-seed", 7, 1, 8, "p"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Recipes) != 5 || len(a.Notes) != 0 {
		t.Fatalf("%d recipes, notes %q", len(a.Recipes), a.Notes)
	}
	want := map[string]struct {
		mean, spread float64
		verdict      string
	}{
		"first": {3.1, 0.1 * math.Sqrt2, ""}, "better": {2.7, 0.2 * math.Sqrt2, Better}, "mixed-": {2.95, 0.45 * math.Sqrt2, NotTold},
		"worse-one": {4, 0, Worse}, "alone-seed": {1, 0, ""},
	}
	seen := 0
	for _, c := range a.Cells() {
		if c.Kind != report.Full {
			continue
		}
		seen++
		w := want[c.Recipe]
		if math.Abs(c.Mean-w.mean) > 1e-9 || c.Verdict != w.verdict || c.Ratio == nil || math.Abs(*c.Ratio-w.mean/2) > 1e-9 {
			t.Errorf("%+v, want %+v", c, w)
		}
		if one := len(c.Seeds) == 1; one != (c.Spread == nil) || one != (c.Low != nil) || !one && math.Abs(*c.Spread-w.spread) > 1e-9 {
			t.Errorf("%s: spread %v, low %v, want %g", c.Recipe, c.Spread, c.Low, w.spread)
		}
	}
	if seen != 5 {
		t.Errorf("%d full models", seen)
	}
	p := a.Phases()[1]
	if p.Recipe != "better" || p.Student != 3 || p.Discriminator != 8 || p.Paired == nil || math.Abs(*p.Paired-0.65) > 1e-9 {
		t.Errorf("phase %+v", p)
	}

	var md, out bytes.Buffer
	if err := a.WriteMarkdown(&md); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"| better | 2 | 2.70 ± 0.28 ×1.35 ✓ |", "| worse-one | 1 | 4.00 (3.50–4.50) ×2.00 ✗ |", "### 4 calls, 4 steps: full", "| better | 3 / 8, 0.65 |"} {
		if !strings.Contains(md.String(), line) {
			t.Errorf("no %q in\n%s", line, &md)
		}
	}
	if err := a.WriteCSV(&out); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(rows) != 1+2*5 || len(rows[0]) != len(columns) {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

func TestRunsThatDoNotCompare(t *testing.T) {
	one := evaluated(t, "first", 1, 3, 8, "p")
	if _, err := Read([]string{one, evaluated(t, "first", 1, 3.2, 8, "p")}); err == nil || !strings.Contains(err.Error(), "one recipe and seed") {
		t.Errorf("the same recipe and seed twice: %v", err)
	}
	a, err := Read([]string{one, evaluated(t, "other", 1, 3.2, 8, "q")})
	if err != nil || len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "another protocol") {
		t.Errorf("another protocol: %v, %v", a, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	d, err := rundir.Open(empty, configs.Default().Resolved(), rundir.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := Read([]string{empty}); err == nil || !strings.Contains(err.Error(), "has not been evaluated yet") {
		t.Errorf("a run without figures: %v", err)
	}
}

// Of the same pictures every metric has the same bits: where only some have, a measurement went wrong, and the page says so.
func TestPicturesMeasuredInTwoWays(t *testing.T) {
	a, err := Read([]string{evaluated(t, "first", 1, 3, 8, "p"), evaluated(t, "second", 1, 3, 8, "p")})
	if err != nil || len(a.Notes) != 0 {
		t.Fatalf("%q, %v", a.Notes, err)
	}
	other := report.Metric{Name: "other", Convention: a.Metrics[0].Convention}
	a.Metrics = append(a.Metrics, other)
	for i, r := range a.Recipes {
		row := r.Runs[0].Table.Rows[0]
		for _, c := range r.Runs[0].Table.Rows {
			if c.Kind == report.Full {
				row = c
			}
		}
		row.Metric, row.Value = other.Name, float64(i)
		r.Runs[0].Table.Rows = append(r.Runs[0].Table.Rows, row)
	}
	a.contradictions()
	if len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "one of the two was measured wrongly: other") {
		t.Errorf("%q", a.Notes)
	}
}
