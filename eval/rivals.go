package eval

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"fewstep/distill"
	"fewstep/eval/report"
	"fewstep/train/rundir"
)

// Earlier says which student is measured at fewer steps than it was taught, with no further training, beside the models
// that were trained for them: the first stage's, its full model where it made one. ok is false where no stage follows.
func Earlier(l *distill.Ladder) (first distill.Step, counts []int, ok bool) {
	for _, s := range l.Steps() {
		switch {
		case s.Stage == 0:
			if s.Final {
				first = s // the full model is made last
			}
		case len(counts) == 0 || counts[len(counts)-1] != s.StudentSteps:
			counts = append(counts, s.StudentSteps)
		}
	}
	return first, counts, len(counts) > 0
}

// AtFewerSteps are the rows of a model at other step counts than its own, as the baseline of those that were trained
// for them.
func (e Entry) AtFewerSteps(counts []int) (out []Entry) {
	e.Model, e.Kind = fmt.Sprintf("%dstep", e.Steps), report.Earlier
	for _, n := range counts {
		if n < e.Steps {
			e.Steps = n
			out = append(out, e)
		}
	}
	return out
}

// rival is another run, opened for its figures.
type rival struct {
	name    string   // in the table: its folder's
	known   []result // its own report's rows, where it was measured by the same protocol
	entries []Entry  // its exported models, where it was not
}

// rival opens a run whose models are to stand beside others: of the same base model, and with figures of its own report
// if these were measured by the same protocol, else with its exported models, to be measured: prepare makes the
// specification ready for that.
func (s *Spec) rival(dir, protocol string, prepare func() error) (*rival, error) {
	d, err := rundir.View(dir)
	if err != nil {
		return nil, fmt.Errorf("rival run: %w", err)
	}
	defer d.Close()
	if base := d.Lineage().BaseWeights; s.BaseWeights != "" && base != s.BaseWeights {
		return nil, fmt.Errorf("rival run %s distils another base model (sha256 %.12s… and not %.12s…): their figures do not compare", dir, base, s.BaseWeights)
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &rival{name: filepath.Base(path)}
	t, err := ReadTable(d)
	if err == nil && t.Protocol == protocol && protocol != "" {
		for _, row := range t.results {
			if row.Column.Kind == report.Full || row.Column.Kind == report.LoRA {
				row.Column.Model, row.Column.Kind = r.name+"/"+row.Column.Model, report.Rival
				r.known = append(r.known, row)
			}
		}
		return r, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("rival run: %w", err)
	}
	if err := prepare(); err != nil {
		return nil, err
	}
	if r.entries, err = s.runEntries(dir); err != nil {
		return nil, fmt.Errorf("rival run: %w", err)
	}
	for i := range r.entries {
		r.entries[i].Model, r.entries[i].Kind = r.name+"/"+r.entries[i].Model, report.Rival
	}
	return r, nil
}

// rivals opens the runs of the settings.
func (v *Evaluation) rivals() (out []*rival, err error) {
	for _, dir := range v.spec.Config.Eval.Rivals {
		r, err := v.spec.rival(v.spec.Config.Locate(dir), v.protocol.digest, func() error { return nil })
		if err != nil {
			return nil, err
		}
		for _, o := range out {
			if o.name == r.name {
				return nil, fmt.Errorf("two rival runs are called %s: give one another folder", r.name)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// AddRival adds a rival's rows to the table of a run, measuring what its own report does not say by the same protocol.
// prepare completes the specification of the run's own evaluation; it is called only where something is to be measured.
func (t *Table) AddRival(ctx context.Context, s *Spec, dir string, prepare func() error) error {
	r, err := s.rival(dir, t.Protocol, prepare)
	if err != nil {
		return err
	}
	t.drop(func(c Column) bool { return c.Kind == report.Rival && filepath.Dir(c.Model) == r.name })
	if len(r.entries) > 0 {
		v, err := Open(ctx, *s)
		if err != nil {
			return err
		}
		defer v.Close()
		if v.protocol.digest != t.Protocol {
			return fmt.Errorf("%s and this run were measured by different protocols, and what is measured here and now follows yet another (other settings, device or version of fewstep): measure both anew, by 'fewstep eval --rows'", dir)
		}
		rows, err := v.measure(ctx, r.entries)
		if err != nil {
			return err
		}
		for _, row := range rows {
			r.known = append(r.known, result{row.Column, row.Values})
		}
	}
	for _, row := range r.known {
		t.add(row.Column, row.Values)
	}
	return nil
}

// drop takes rows out of the table.
func (t *Table) drop(which func(Column) bool) {
	old := t.results
	t.Rows, t.Columns, t.results = nil, nil, nil
	for _, r := range old {
		if !which(r.Column) {
			t.add(r.Column, r.Values)
		}
	}
}
