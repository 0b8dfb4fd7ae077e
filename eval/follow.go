package eval

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/eval/scheduler"
	"fewstep/train/export"
	"fewstep/train/rundir"
)

// exports are the models of a run's ladder that are measured, in its order, and which of them the run has exported
// completely. The first stage's LoRA is only the next one's start.
func exports(d *rundir.Dir, c *configs.Recipe) (steps []distill.Step, ready []bool, err error) {
	ladder, err := distill.NewLadder(c, distill.Epsilon) // what the base predicts moves no phase
	if err != nil {
		return nil, nil, err
	}
	names, err := d.Artifacts(rundir.Exports)
	if err != nil {
		return nil, nil, err
	}
	for _, step := range ladder.Steps() {
		if step.Final && !(export.IsLoRA(step) && step.Stage == 0) {
			steps, ready = append(steps, step), append(ready, slices.Contains(names, export.Name(step)))
		}
	}
	return steps, ready, nil
}

// exportEntry is the row of one exported file.
func (s *Spec) exportEntry(d *rundir.Dir, step distill.Step) (Entry, error) {
	r := RowSpec{Name: fmt.Sprintf("%dstep", step.StudentSteps), Steps: intList{step.StudentSteps}}
	path := d.ArtifactPath(rundir.Exports, export.Name(step))
	if export.IsLoRA(step) {
		r.Name, r.LoRA = r.Name+"_lora", path
	} else {
		r.UNet = path
	}
	entries, err := s.entriesOf(r)
	if err != nil {
		return Entry{}, err
	}
	e := entries[0]
	e.Sampler, e.Original = scheduler.Name(step.Sampler), step.Original
	return e, nil
}

// runEntries are the rows of all files that a run has exported.
func (s *Spec) runEntries(dir string) ([]Entry, error) {
	d, c, err := ViewRun(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	steps, ready, err := exports(d, c)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for i, step := range steps {
		if !ready[i] {
			continue
		}
		e, err := s.exportEntry(d, step)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has exported no model yet", dir)
	}
	return out, nil
}

// ViewRun opens a run directory for reading, with its recipe.
func ViewRun(dir string) (*rundir.Dir, *configs.Recipe, error) {
	d, err := rundir.View(dir)
	if err != nil {
		return nil, nil, err
	}
	raw, err := d.Config()
	if err != nil {
		return nil, nil, err
	}
	c, err := configs.Parse(raw, d.Path("config.yaml"))
	return d, c, err
}

// Follow measures the models of a run as it exports them, until the ladder's last is measured. It only reads the run's
// directory, so it may run on another machine that shares it, and be stopped and started: rows that Load returns are
// not measured again. show is given the table whenever it has grown, and how many of the ladder's models are in it.
// Where nothing is new it looks again after the time given.
func (v *Evaluation) Follow(ctx context.Context, d *rundir.Dir, c *configs.Recipe, every time.Duration, show func(t *Table, entries []Entry, models, of int) error) error {
	ladder, err := distill.NewLadder(c, distill.Epsilon) // what the base predicts moves no phase
	if err != nil {
		return err
	}
	first, counts, _ := Earlier(ladder)
	had := -1
	for {
		steps, ready, err := exports(d, c)
		if err != nil {
			return err
		}
		var entries []Entry
		models := 0
		for i, step := range steps {
			if !ready[i] {
				continue
			}
			e, err := v.spec.exportEntry(d, step)
			if err != nil {
				return err
			}
			entries = append(entries, e)
			if models++; step.Stage == first.Stage && step.Phase == first.Phase {
				entries = append(entries, e.AtFewerSteps(counts)...)
			}
		}
		if models > had {
			t, err := v.Table(ctx, entries)
			if err != nil {
				return err
			}
			if had = models; len(t.Rows) > 0 {
				if err := show(t, entries, had, len(steps)); err != nil {
					return err
				}
			}
		}
		if had == len(steps) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}
