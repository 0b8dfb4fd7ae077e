package main

import (
	"encoding/csv"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fewstep/train/tinypipeline"
)

// metricsOf reads a run's metrics.csv: values by model, kind, steps and metric.
func metricsOf(t *testing.T, run string) map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join(run, "report", "metrics.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range rows[1:] {
		out[strings.Join([]string{r[0], r[3], r[1], r[4]}, " ")] = r[6]
	}
	return out
}

// Another run's models stand in a report with the figures of its own report where both follow one protocol, and are
// measured where they do not; students of more steps stand there without further training; phases in which nothing
// happened are named.
func TestRivalsInReports(t *testing.T) {
	home := t.TempDir()
	recipe, err := tinypipeline.Write(home, filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (out, errs string) {
		t.Helper()
		out, errs, code := runCommand(t, append(args, "--backend", "go")...)
		if code != exitOK {
			t.Fatalf("%v: code %d\n%s", args, code, errs)
		}
		return out, errs
	}
	// Below the recipe's folder: its model is looked for there when a report has to measure.
	mse, own, other := filepath.Join(home, "mse"), filepath.Join(home, "own"), filepath.Join(home, "other")
	run("run", recipe, "--dir", mse, "--set", "stages.8.phases.lora-cond.lr=2e-2")
	run("run", recipe, "--dir", own, "--fork", mse, "--from", "8", "--set", "eval.rivals=["+mse+"]")
	theirs, ours := metricsOf(t, mse), metricsOf(t, own)
	for key, value := range theirs {
		model, rest, _ := strings.Cut(key, " ")
		kind, rest, _ := strings.Cut(rest, " ")
		if kind != "full" && kind != "lora" {
			continue
		}
		if got := ours["mse/"+model+" rival "+rest]; got != value {
			t.Errorf("mse/%s %s is %q, in its own report %s", model, rest, got, value)
		}
	}
	for _, key := range []string{"16step earlier 8 FD-Whole", "16step earlier 1 CLIP score", "4step full 4 Laplacian energy", "2step_lora lora 2 Teacher RMS", "16step earlier 2 Teacher similarity"} {
		if ours[key] == "" {
			t.Errorf("there is no %s", key)
		}
	}
	if ours["16step earlier 8 FD-Whole"] == ours["8step full 8 FD-Whole"] {
		t.Error("the untrained student draws what the trained one does")
	}
	page, err := os.ReadFile(filepath.Join(own, "report", "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"Against the undistilled teacher", "Against the 16step student without further training", "Against the run mse", "hardly moved"} {
		if !strings.Contains(string(page), text) {
			t.Errorf("the page does not say %q", text)
		}
	}
	out, _, code := runCommand(t, "check", own)
	if code != exitOK || !strings.Contains(out, "stage 8, phase lora-cond: its student moved in 2 updates, its discriminator in 3") || !strings.Contains(out, ": sound") {
		t.Errorf("check: code %d, %s", code, out)
	}

	// The command adds rivals to a report that has none, from a report or by measuring.
	if _, errs := run("report", mse, "--rival", own); strings.Contains(errs, "backend") {
		t.Errorf("a report of the same protocol was not enough: %s", errs)
	}
	if got := metricsOf(t, mse)["own/4step rival 4 FD-Whole"]; got != ours["4step full 4 FD-Whole"] {
		t.Errorf("own/4step is %q", got)
	}
	run("run", recipe, "--dir", other, "--fork", own, "--from", "2", "--set", "eval.samples=12")
	run("report", own, "--rival", other, "--rival", mse)
	now := metricsOf(t, own)
	// These are the same models, measured as they were exported.
	for theirs, same := range map[string]string{"other/8step rival 8 FD-Whole": "8step full 8 FD-Whole", "other/8step_lora rival 8 Teacher RMS": "8step_lora lora 8 Teacher RMS"} {
		a, errA := strconv.ParseFloat(now[theirs], 64)
		b, errB := strconv.ParseFloat(ours[same], 64)
		if errA != nil || errB != nil || math.Abs(a-b) > 2e-3*b {
			t.Errorf("%s is %q, and %s %q", theirs, now[theirs], same, ours[same])
		}
	}
	kept := slices.Sorted(func(yield func(string) bool) {
		for key := range ours {
			if now[key] == "" && !yield(key) {
				return
			}
		}
	})
	if len(kept) > 0 {
		t.Errorf("lost: %q", kept)
	}

	// The table of an ablation.
	sheet := filepath.Join(home, "sheet.png")
	out, _ = run("compare", own, mse, "--sheet", sheet)
	if f, err := os.Open(sheet); err != nil {
		t.Error(err)
	} else if c, err := png.DecodeConfig(f); err != nil || c.Width < 6*96 { // teacher, earlier student, full and LoRA of both
		t.Errorf("a sheet of %+v, %v", c, err)
	}
	if !strings.Contains(out, "### 4 calls, 4 steps: full") || !strings.Contains(out, "8/lora-cond") {
		t.Error(out)
	}
	if _, errs, code := runCommand(t, "compare", own, "--format", "xml"); code != exitUsage || !strings.Contains(errs, "markdown, csv or json") {
		t.Errorf("code %d, %s", code, errs)
	}
}
