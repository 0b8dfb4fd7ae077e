package eval

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/configs"
	"fewstep/eval/report"
	"fewstep/model/weights"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// Names below a run's report folder: the saved table, and the saved rows of an evaluation that goes on.
const (
	tableName = "table.json"
	rowsName  = "rows"
)

// pages are what report.Write writes.
var pages = []string{"metrics.csv", "metrics.json", "index.html"}

// Keep lets an evaluation save its rows in a run directory and find them there, and note the time per image in the
// run's timing.jsonl.
func (s *Spec) Keep(d *rundir.Dir) {
	s.Save = func(name string, raw []byte) error {
		return d.SaveArtifact(rundir.Report, rundir.Bytes(rowsName+"/"+name, raw))
	}
	s.Load = func(name string) ([]byte, bool) {
		name = rowsName + "/" + name
		if have, err := d.HasArtifact(rundir.Report, name); err != nil || !have {
			return nil, false
		}
		raw, err := os.ReadFile(d.ArtifactPath(rundir.Report, name))
		return raw, err == nil
	}
	s.Timed = func(t report.Timing) error { return monitor.AppendSampling(d.TimingPath(), samplingTime(t)) }
}

func samplingTime(t report.Timing) monitor.SamplingTime {
	return monitor.SamplingTime{Model: t.Model, Kind: string(t.Kind), Steps: t.Steps, Calls: t.Calls, SecondsPerImage: t.SecondsPerImage, Busy: t.Busy, Device: t.Device}
}

// ReadTimings returns the latest time per image of each model in a timing.jsonl.
func ReadTimings(path string) ([]report.Timing, error) {
	lines, err := monitor.ReadSampling(path)
	if err != nil {
		return nil, err
	}
	var out []report.Timing
	for _, l := range lines {
		t := report.Timing{Model: l.Model, Kind: report.Kind(l.Kind), Steps: l.Steps, Calls: l.Calls, SecondsPerImage: l.SecondsPerImage, Busy: l.Busy, Device: l.Device}
		i := slices.IndexFunc(out, func(o report.Timing) bool {
			return o.Model == t.Model && o.Kind == t.Kind && o.Steps == t.Steps && o.Calls == t.Calls
		})
		if i < 0 {
			out = append(out, t)
		} else {
			out[i] = t
		}
	}
	return out, nil
}

// Reported says whether a run's report folder holds all that WriteReport writes, as it was written.
func Reported(d *rundir.Dir) (bool, error) {
	have, err := d.Artifacts(rundir.Report)
	if err != nil {
		return false, err
	}
	for _, name := range append([]string{tableName}, pages...) {
		if !slices.Contains(have, name) {
			return false, nil
		}
	}
	return true, nil
}

// ReadTable returns the table that WriteReport saved in a run directory.
func ReadTable(d *rundir.Dir) (*Table, error) {
	path := d.ArtifactPath(rundir.Report, tableName)
	if have, err := d.HasArtifact(rundir.Report, tableName); err != nil {
		return nil, err
	} else if !have {
		return nil, fmt.Errorf("%s: the run has not been evaluated yet, or the file was changed since; 'fewstep run' finishes it", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t := &Table{}
	if err := json.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// WriteReport writes index.html, metrics.csv, metrics.json and the table itself into a run's report folder. Without
// times they depend on the run's results alone, no clock and no place: a run that was killed and continued has the
// same report to the byte. So times per image and goodput, which differ from one run of the same recipe to the next, are not in
// the report that a run ends with; 'fewstep report' adds them.
func WriteReport(d *rundir.Dir, t *Table, times []report.Timing) error {
	r, err := NewReport(d, t)
	if err != nil {
		return err
	}
	if r.Timings = times; len(times) == 0 {
		r.Facts = append(slices.Clone(r.Facts), report.Fact{Name: "Time per image", Value: "not on this page, so that a run made again gives the same page; 'fewstep report' writes it with the times that were measured"})
	} else if g, err := monitor.ReadGoodput(d.TimingPath()); err != nil {
		return err
	} else if g.Updates > 0 {
		r.Facts = append(slices.Clone(r.Facts), report.Fact{Name: "Training", Value: g.String()})
	}
	dir, err := os.MkdirTemp("", "fewstep-report-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := report.Write(dir, r); err != nil {
		return err
	}
	if err := t.Save(d); err != nil {
		return err
	}
	for _, name := range pages {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := d.SaveArtifact(rundir.Report, rundir.Bytes(name, content)); err != nil {
			return err
		}
	}
	return nil
}

// Save writes the table itself into a run's report folder, where ReadTable finds it.
func (t *Table) Save(d *rundir.Dir) error {
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return d.SaveArtifact(rundir.Report, rundir.Bytes(tableName, raw))
}

// NewReport puts a run's report together: the table, the sheets, the curves of its stats, its config and lineage.
func NewReport(d *rundir.Dir, t *Table) (*report.Report, error) {
	config, err := d.Config()
	if err != nil {
		return nil, err
	}
	c, err := configs.Parse(config, d.Path("config.yaml"))
	if err != nil {
		return nil, err
	}
	records, err := monitor.ReadStats(d.StatsPath())
	if err != nil {
		return nil, err
	}
	r := &report.Report{
		Title:     fmt.Sprintf("%s: %s", c.Name, ladder(c)),
		Summary:   fmt.Sprintf("Progressive adversarial distillation of %s on %s. Each model is compared at the same number of network calls: with the undistilled teacher, and with a student of more steps that was not trained for so few.", c.Model, c.Data.Source),
		Facts:     t.Facts,
		Commands:  commands(c),
		Config:    string(config),
		Metrics:   t.Metrics,
		Rows:      t.Rows,
		Published: report.Lightning(),
		Stages:    stages(c, records),
	}
	if r.Sheets, err = t.sheets(); err != nil {
		return nil, err
	}
	r.Lineage, err = lineage(d)
	return r, err
}

// ladder writes "128 → 32 → 8 → 4 → 2 → 1 steps".
func ladder(c *configs.Recipe) string {
	var steps []string
	for i, s := range c.Stages {
		if i == 0 {
			steps = append(steps, fmt.Sprint(s.TeacherSteps))
		}
		steps = append(steps, fmt.Sprint(s.StudentSteps))
	}
	return strings.Join(steps, " → ") + " steps"
}

func commands(c *configs.Recipe) []report.Command {
	out := []report.Command{
		{Purpose: "Make the run again from its own config, in the run's folder", Line: "fewstep run config.yaml --dir again"},
		{Purpose: "Check every file of the run against its manifests", Line: "fewstep check ."},
		{Purpose: "Write this report again from what is saved, with the measured time per image", Line: "fewstep report ."},
	}
	if len(c.Stages) > 0 {
		n := c.Stages[len(c.Stages)-1].StudentSteps
		for _, s := range c.Stages {
			if s.StudentSteps > 2 {
				n = s.StudentSteps
			}
		}
		out = append(out, report.Command{Purpose: "Draw a picture", Line: fmt.Sprintf("fewstep sample --model %s --unet exports/%dstep_unet.safetensors --prompt \"a cat on yellow\"", c.Model, n)})
	}
	return out
}

// sheets are one picture with every model, then one for each step count of a distilled model beside the teacher and
// the undistilled models of as many calls.
func (t *Table) sheets() ([]report.Sheet, error) {
	distilled := func(c Column) bool { return c.Kind == report.Full || c.Kind == report.LoRA }
	var calls []int
	for _, c := range t.Columns {
		if distilled(c) && !slices.Contains(calls, c.Calls) {
			calls = append(calls, c.Calls)
		}
	}
	slices.Sort(calls)
	slices.Reverse(calls)
	var out []report.Sheet
	add := func(title, caption string, keep func(Column) bool) error {
		png, err := t.Sheet(keep)
		if err != nil || png == nil {
			return err
		}
		out = append(out, report.Sheet{Title: title, Caption: caption, PNG: png, Prompts: t.Prompts})
		return nil
	}
	if len(calls) == 0 {
		return out, add("Every model", "One prompt and one starting noise per row.", nil)
	}
	if err := add("Every distilled model beside the teacher", "One prompt and one starting noise per row.", func(c Column) bool {
		return distilled(c) || c.Kind == report.Teacher
	}); err != nil {
		return nil, err
	}
	teacher := func(c Column) bool { return c.Kind == report.Teacher }
	for _, n := range calls {
		rival := func(c Column) bool { return !distilled(c) && c.Calls == n }
		if !slices.ContainsFunc(t.Columns, teacher) && !slices.ContainsFunc(t.Columns, rival) {
			continue // the first sheet shows as much
		}
		title := fmt.Sprintf("%d network calls: distilled and rivals", n)
		if n == 1 {
			title = "One network call: distilled and rivals"
		}
		caption := "Models of equally many network calls. One prompt and one starting noise per row."
		if slices.ContainsFunc(t.Columns, teacher) {
			caption = "The teacher beside models of equally many network calls. One prompt and one starting noise per row."
		}
		if err := add(title, caption, func(c Column) bool { return teacher(c) || c.Calls == n }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// curves are the report's names of a record's values, in the order of the plots.
var curves = []struct{ value, curve string }{
	{monitor.Loss, report.LossCurve}, {monitor.LossG, report.LossCurve}, {monitor.LossD, report.DLossCurve},
	{monitor.Accuracy, report.AccuracyCurve}, {monitor.Paired, report.PairedCurve}, {monitor.Gap, report.LogitGapCurve},
}

// stages turns the run's records into curves, phase by phase, with the discriminator's troubles as notes.
func stages(c *configs.Recipe, records []monitor.Record) []report.Stage {
	var out []report.Stage
	last := ""
	watcher := watch(c)
	for _, r := range records {
		if r.Kind != monitor.KindStep {
			continue
		}
		if len(out) == 0 || last != r.Stage {
			title := r.Stage
			if s := c.Stage(r.Stage); s != nil {
				title = fmt.Sprintf("%d → %d", s.TeacherSteps, s.StudentSteps)
			}
			out, last = append(out, report.Stage{Name: title}), r.Stage
		}
		s := &out[len(out)-1]
		if len(s.Phases) == 0 || s.Phases[len(s.Phases)-1].Name != r.Phase {
			s.Phases = append(s.Phases, report.Phase{Name: r.Phase})
		}
		p := &s.Phases[len(s.Phases)-1]
		for _, name := range curves {
			if v, ok := r.Values[name.value]; ok {
				addPoint(p, name.curve, r.Samples, v)
			}
		}
		if watcher != nil {
			if f := watcher.Update(r); f != nil {
				p.Notes = append(p.Notes, f.String())
			}
		}
	}
	moves := monitor.CountMoves(records) // as many as there are phases, in the same order
	for i := range out {
		for k := range out[i].Phases {
			p, m := &out[i].Phases[k], moves[0]
			p.Student, p.Discriminator, p.Few, moves = m.Student, m.Discriminator, m.Few(), moves[1:]
		}
	}
	return out
}

func addPoint(p *report.Phase, name string, samples int64, v float64) {
	i := slices.IndexFunc(p.Curves, func(c report.Curve) bool { return c.Name == name })
	if i < 0 {
		i = len(p.Curves)
		p.Curves = append(p.Curves, report.Curve{Name: name})
	}
	p.Curves[i].Points = append(p.Curves[i].Points, report.Point{Samples: samples, Value: v})
}

// watch judges the discriminator as the run did; nil where the recipe does not watch it.
func watch(c *configs.Recipe) *monitor.Watcher {
	d := c.Discriminator
	if d.CollapseWindow <= 0 {
		return nil
	}
	return &monitor.Watcher{Window: int(max(1, d.CollapseWindow/int64(max(1, c.Train.GlobalBatch())))), SaturatedLoss: d.CollapseLoss, SaturatedAcc: d.CollapseAccuracy}
}

// lineage lists what the run was made from and the files it made.
func lineage(d *rundir.Dir) ([]report.Artifact, error) {
	l := d.Lineage()
	out := []report.Artifact{{Name: "base model", SHA256: l.BaseWeights}, {Name: "captioned images", SHA256: l.DataManifest}}
	if l.FewstepVersion != "" {
		out = append(out, report.Artifact{Name: "fewstep", Note: l.FewstepVersion})
	}
	for f := l.Forked; f != nil; f = f.Forked {
		out = append(out, report.Artifact{Name: "forked from", Path: f.Run, SHA256: f.ConfigSHA256, Note: fmt.Sprintf("of its config.yaml; everything before %s is its work, %d results", f.From, len(f.Results))})
		for _, r := range f.Results {
			out = append(out, report.Artifact{Name: "taken over", Path: "stages/" + r.Stage + "/" + r.Phase + "/result", SHA256: r.SHA256, Note: "of its manifest"})
		}
	}
	names, err := d.Artifacts(rundir.Exports)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if filepath.Ext(name) != ".safetensors" || strings.Contains(name, "/") {
			continue
		}
		sum, err := weights.HashFile(context.Background(), d.ArtifactPath(rundir.Exports, name))
		if err != nil {
			return nil, err
		}
		out = append(out, report.Artifact{Name: strings.TrimSuffix(name, ".safetensors"), Path: rundir.Exports + "/" + name, SHA256: sum})
	}
	return out, nil
}
