package eval

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/eval/report"
	"fewstep/train/export"
	"fewstep/train/rundir"
	"fewstep/train/tinypipeline"
)

// growing is a run directory of the tiny ladder to which exports are added by hand.
type growing struct {
	dir   *rundir.Dir
	steps []distill.Step
	unet  []byte
}

// export adds the file of the ladder's next full model.
func (g *growing) export(t *testing.T, step distill.Step) {
	t.Helper()
	if err := g.dir.SaveArtifact(rundir.Exports, rundir.Bytes(export.Name(step), g.unet)); err != nil {
		t.Fatal(err)
	}
}

// growingRun makes the run's directory; the ladder is cut to its full models, which need no LoRA files.
func growingRun(t *testing.T, s Spec) (*growing, string) {
	t.Helper()
	root := t.TempDir()
	c, err := configs.Parse([]byte(tinypipeline.Recipe), filepath.Join(filepath.Dir(s.Pipeline.Dir), "recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Stages {
		c.Stages[i].Phases = slices.DeleteFunc(c.Stages[i].Phases, func(p configs.Phase) bool { return p.Target == configs.TargetLoRA || p.Kind == configs.KindMerge })
	}
	c.Model, c.Data.Source = s.Pipeline.Dir, s.Config.Data.Source
	run := filepath.Join(root, "run")
	d, err := rundir.Open(run, c.Resolved(), rundir.Lineage{FewstepVersion: "0.0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	file := filepath.Join(root, "unet.safetensors")
	exportedUNet(t, s, file, "1", "tiny")
	g := &growing{dir: d}
	if g.unet, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	if g.steps, _, err = exports(d, c); err != nil {
		t.Fatal(err)
	}
	if len(g.steps) != 5 {
		t.Fatalf("the ladder exports %d full models", len(g.steps))
	}
	return g, run
}

// listing names every file below a folder with its size and time.
func listing(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		out = append(out, fmt.Sprint(path, info.Size(), info.ModTime(), info.Mode()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFollow: models are measured as a run exports them, by an evaluation that is stopped and started on the way; the
// run's directory is never written to, and the end of the ladder is the end.
func TestFollow(t *testing.T) {
	s := random(t)
	s.Config.Eval.TeacherSteps = 0
	g, run := growingRun(t, s)
	out := filepath.Join(t.TempDir(), "new", "folder")
	s.KeepIn(out)
	var measured []string
	s.Progress = func(p Progress) {
		if p.Row > 0 && p.Done == p.Total && !p.Saved {
			measured = append(measured, p.Model)
		}
	}
	const untrained = 4 // the first model at the counts of the others
	follow := func(ctx context.Context, show func(models, of int)) error {
		d, c, err := ViewRun(run)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		v, err := Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		return v.Follow(ctx, d, c, time.Millisecond, func(table *Table, entries []Entry, models, of int) error {
			if len(entries) != models+untrained || len(table.Columns) != len(entries) {
				return fmt.Errorf("%d models, %d entries, %d columns", models, len(entries), len(table.Columns))
			}
			show(models, of)
			r := &report.Report{Title: "followed"}
			return WriteFolder(out, table, r)
		})
	}

	// The run has made one model when the evaluation starts, makes the second meanwhile, and then it is stopped.
	g.export(t, g.steps[0])
	var seen []int
	ctx, cancel := context.WithCancel(context.Background())
	err := follow(ctx, func(models, of int) {
		if seen = append(seen, models); of != 5 {
			t.Errorf("a ladder of %d models", of)
		}
		switch models {
		case 1:
			g.export(t, g.steps[1])
		case 2:
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(seen, []int{1, 2}) {
		t.Fatalf("seen %v, ended with %v", seen, err)
	}

	// Started again it measures the rest alone, however many came at once, and ends by itself.
	for _, step := range g.steps[2:] {
		g.export(t, step)
	}
	before := listing(t, run)
	seen = nil
	if err := follow(context.Background(), func(models, _ int) { seen = append(seen, models) }); err != nil || !slices.Equal(seen, []int{5}) {
		t.Fatalf("seen %v, ended with %v", seen, err)
	}
	var want []string
	for i, step := range g.steps {
		want = append(want, fmt.Sprintf("%dstep", step.StudentSteps))
		for range untrained * (1 - min(i, 1)) {
			want = append(want, want[0])
		}
	}
	if !slices.Equal(measured, want) {
		t.Errorf("measured %v, want each of %v once", measured, want)
	}
	if after := listing(t, run); !slices.Equal(before, after) {
		t.Error("the run's directory was changed")
	}
	csv, err := os.ReadFile(filepath.Join(out, "metrics.csv"))
	if err != nil || strings.Count(string(csv), "\n") != 1+5+untrained {
		t.Errorf("metrics.csv: %s, %v", csv, err)
	}
	times, err := ReadTimings(filepath.Join(out, timingName))
	if err != nil || len(times) != 5+untrained || !(times[0].SecondsPerImage > 0) {
		t.Errorf("times %+v, %v", times, err)
	}
	page, err := os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil || !strings.Contains(string(page), "Time per image") {
		t.Errorf("the page shows no time per image: %v", err)
	}

	// The finished run is a row of another evaluation.
	if entries, err := s.Rows([]RowSpec{{Run: run}}); err != nil || len(entries) != 5 {
		t.Errorf("%d entries of the run, %v", len(entries), err)
	}
}
