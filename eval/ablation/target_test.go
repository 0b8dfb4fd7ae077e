package ablation

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/eval/report"
)

// withTargets makes the metric of invented runs one that has a target: ratios are to the teacher's value of 2.
func withTargets(t *testing.T, dirs ...string) *Ablation {
	t.Helper()
	a, err := Read(dirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range a.Recipes {
		for _, run := range r.Runs {
			for i := range run.Table.Metrics {
				run.Table.Metrics[i].Counterpart = "FID-Whole"
			}
		}
	}
	return a
}

// A target is met or missed where every seed says so, and undecided where seeds differ.
func TestTargetsOverSeeds(t *testing.T) {
	a := withTargets(t,
		evaluated(t, "first", 1, 2, 8, "p"), evaluated(t, "first", 2, 2.1, 8, "p"),
		evaluated(t, "worse", 1, 4, 8, "p"), evaluated(t, "worse", 2, 4.1, 8, "p"),
		evaluated(t, "mixed-", 1, 2, 8, "p"), evaluated(t, "mixed-", 2, 4, 8, "p"),
	)
	want := map[string]report.Reach{"first": report.Met, "worse": report.Missed, "mixed-": report.Undecided}
	all := a.Targets()
	if len(all) != 3 {
		t.Fatalf("%+v", all)
	}
	for _, g := range all {
		if g.Reach != want[g.Recipe] || len(g.Seeds) != 2 || g.Asks != "≤ 1.16" || g.To != "teacher" || g.Model != "4step" {
			t.Errorf("%+v, want %s", g, want[g.Recipe])
		}
	}
	var md bytes.Buffer
	if err := a.WriteTargets(&md); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"### Targets: worse\n\n| steps | model | divided by | FD |", "| 4 | 4step | teacher | 1.00 (", "≤ 1.16 ✓ |", "≤ 1.16 ✗ |", "≤ 1.16 ? |"} {
		if !strings.Contains(md.String(), text) {
			t.Errorf("no %q in\n%s", text, &md)
		}
	}
	raw, err := json.Marshal(all)
	if err != nil || !strings.Contains(string(raw), `"metric":"FD"`) || !strings.Contains(string(raw), `"ratio":2`) {
		t.Errorf("%s, %v", raw, err)
	}
}

// A row's class follows from its verdicts: as many figures as chance tells apart are no outcome.
func TestOutcomeOfARow(t *testing.T) {
	for _, c := range []struct {
		o    outcome
		want string
	}{
		{outcome{better: []string{"x"}, told: 1, figures: 1, compared: []uint64{1}}, "better"},
		{outcome{better: []string{"x"}, told: 1, figures: 21, compared: []uint64{1}}, "not told apart"},
		{outcome{better: []string{"x"}, told: 2, figures: 21, compared: []uint64{1}}, "better"},
		{outcome{better: []string{"x"}, told: 1, figures: 21, compared: []uint64{1, 2}}, "better"},
		{outcome{worse: []string{"x"}, told: 3, figures: 21, compared: []uint64{1}}, "worse"},
		{outcome{worse: []string{"x"}, better: []string{"y"}, told: 5, figures: 21, compared: []uint64{1}}, "better in some, worse in some"},
		{outcome{same: []string{"x"}, figures: 21, compared: []uint64{1}}, "not told apart"},
		{outcome{missing: 3}, "not compared"},
	} {
		if got := c.o.class(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.o, got, c.want)
		}
	}
	a := withTargets(t, evaluated(t, "first", 1, 3, 8, "p"), evaluated(t, "better", 1, 2, 8, "p"), evaluated(t, "more", 1, 2, 8, "p"), evaluated(t, "more", 2, 2, 8, "p"), evaluated(t, "same-", 1, 3, 8, "p"), evaluated(t, "other-seed", 5, 3, 8, "p"))
	dir := t.TempDir()
	if err := a.WritePage(dir, Page{}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"### better: better\n\n- **better** than first: FD: 4step (×0.67).", "### same-: not compared\n\n- the row begins behind 4step, which it has from first.",
		"### more: better\n\n- **better** than first: FD: 4step (×0.67).", "- compared in seed 1; first has no run of seed 2.",
		"### other-seed: not compared\n\n- 1 figure had no counterpart of the same seed in first.", "Its acceptance test was not run.", "## Targets",
		"stages.8.phases.lora-cond.lr: ",
	} {
		if !strings.Contains(string(page), text) {
			t.Errorf("no %q in\n%s", text, page)
		}
	}
	if csv, err := os.ReadFile(filepath.Join(dir, "ablation.csv")); err != nil || !strings.HasPrefix(string(csv), "recipe,model") {
		t.Errorf("%v", err)
	}
}
