package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// README says of the demo what the demo's report says: the figures of its table, and where a difference is clear.
func TestReadmeSaysWhatTheDemoMeasured(t *testing.T) {
	raw, err := os.ReadFile("../../examples/demo/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var demo struct {
		Rows     []jsonRow
		Verdicts []jsonVerdict
	}
	if err := json.Unmarshal(raw, &demo); err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile("../../README.md"); err != nil {
		t.Fatal(err)
	}
	readme := strings.Join(strings.Fields(string(raw)), " ")

	clear := map[string][]string{} // by metric, the calls at which the distilled models are clearly better than the student of 32 steps
	for _, v := range demo.Verdicts {
		if strings.HasPrefix(v.Opponent, "the 32step student") && v.Verdict == ClearlyBetter.Words() {
			clear[v.Metric] = append(clear[v.Metric], fmt.Sprint(v.Calls))
		}
	}
	if !slices.Equal(clear["FD-Whole"], clear["FD-Patch"]) {
		t.Errorf("clearly better by FD-Whole at %v, by FD-Patch at %v: README has one list for both", clear["FD-Whole"], clear["FD-Patch"])
	}
	for _, want := range []string{
		"clearly better than that student at " + enumerate(clear["FD-Whole"]) + " calls by FD-Whole and FD-Patch",
		"at " + enumerate(clear["CLIP score"]) + " by the CLIP score too",
	} {
		if !strings.Contains(readme, want) {
			t.Errorf("README does not say %q", want)
		}
	}

	value := func(calls int, is func(jsonRow) bool) string {
		best, ok := jsonRow{}, false
		for _, r := range demo.Rows {
			if r.Metric == "FD-Whole" && r.Calls == calls && is(r) && (!ok || r.Value < best.Value) {
				best, ok = r, true
			}
		}
		if !ok {
			return ""
		}
		return fmt.Sprintf("%.3f", best.Value)
	}
	kind := func(k Kind) func(jsonRow) bool { return func(r jsonRow) bool { return r.Kind == k } }
	for _, calls := range []int{8, 4, 2, 1} {
		full, untrained := value(calls, kind(Full)), value(calls, func(r jsonRow) bool { return r.Kind == Earlier && r.Model == "32step" })
		undistilled := value(calls, func(r jsonRow) bool { return r.Kind == Undistilled || r.Kind == Teacher })
		cells := []string{fmt.Sprint(calls), full, value(calls, kind(LoRA)), untrained, undistilled}
		want := strings.Join(strings.Fields("| "+strings.Join(cells, " | ")+" |"), " ")
		if plain := strings.ReplaceAll(readme, "**", ""); slices.Contains(cells[:2], "") || !strings.Contains(plain, want) {
			t.Errorf("README has no row %q", want)
		}
	}
	if teacher := value(64, kind(Teacher)); !strings.Contains(readme, cmp.Or(teacher, "no teacher")) {
		t.Errorf("README does not name the teacher's %s", teacher)
	}
}
