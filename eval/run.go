package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/eval/stats"
	"fewstep/model/pipeline"

	"golang.org/x/sync/errgroup"
)

// Spec is an evaluation: what is measured, by which settings.
type Spec struct {
	Engine   *engine.Engine     // measures, and draws if there are no Drawers; best at granularity nn.Network, in f32
	Drawers  []*engine.Engine   // draw, one on each device, all of the same settings; may compute in bf16
	Pipeline *pipeline.Pipeline // text encoders, VAE, schedule and the metrics' CLIPModel
	Config   *configs.Recipe    // Eval and Data decide the protocol

	// Base loads the undistilled model, once: the teacher, and the same network at fewer steps. nil leaves them out.
	Base        Loader
	BaseWeights string  // its digest, which rival runs must share; "" = not known
	Entries     []Entry // the models to measure beside it

	// Captions replace the mini protocol's prompts, which are drawn from the data set: one image each, in their order.
	// Reference are then the real images that distances are measured from, a folder or another source of images; ""
	// leaves the distances out.
	Captions  *CaptionList
	Reference string

	// Convention names how images are measured: "" is mini-clip, others need the networks that Sources name. With these,
	// ReferenceStats may stand for the real images: the .npz files of whole images and of patches, as pytorch-fid and
	// clean-fid save them.
	Convention     string
	Sources        metric.Sources
	ReferenceStats []string
	SaveStats      string // folder for the statistics of the real images, to be such ReferenceStats; "" = they are not saved

	// Images is a folder that keeps every image as a PNG; a stopped row goes on from those that are there. "" = none.
	Images string

	// Save keeps the result of one row and Load returns it, so that a stopped evaluation continues. Both may be nil.
	Save func(name string, data []byte) error
	Load func(name string) ([]byte, bool)

	Progress func(Progress)            // may be nil
	Metric   func(name string)         // is told each metric before it is computed, which may take a minute; may be nil
	Warn     func(string)              // may be nil
	Timed    func(report.Timing) error // is given the time per image of each row that was drawn; may be nil

	facts []report.Fact // of the report, beside the protocol's
}

// Entry is one model at one step count.
type Entry struct {
	Model      string             // name in the table: "8step_lora"
	Kind       report.Kind        //
	Steps      int                // of inference
	Guidance   float64            // classifier-free guidance; 0 or 1 = none
	Prediction distill.Prediction // of its network
	Schedule   *distill.Schedule  // of the noise that it was trained on; nil = the pipeline's
	Sampler    scheduler.Name     // "" = the students' own
	Original   int                // steps that a consistency model was distilled from; 0 = as the scheduler's configuration says
	Digest     string             // of its weights: a saved row of other weights is measured again; may be empty

	Load     Loader
	Pipeline *pipeline.Pipeline // its text encoders, VAE and schedule; nil = the evaluation's
	Images   string             // a folder of images made elsewhere, in the order of the captions, instead of a model
	Files    []report.Artifact  // what it was read from, for the report
}

// MadeBy is an entry of what a phase produces, sampled as that is made for.
func (e Entry) MadeBy(s distill.Step) Entry {
	e.Steps, e.Prediction, e.Sampler, e.Original = s.StudentSteps, s.Prediction, scheduler.Name(s.Sampler), s.Original
	return e
}

// Loader puts the parameters of a UNet without adapters on an engine's device, and says how to give them back. It is called
// for several devices at once.
type Loader func(e *engine.Engine) (params *engine.Params, free func(), err error)

// Progress says how far an evaluation is.
type Progress struct {
	Model        string
	Steps, Calls int
	Row, Rows    int // of the table, counted from 1; 0 before the first
	Done, Total  int // images of this row
	Saved        bool
}

// Evaluate measures the real images, the undistilled model and every entry. Rows that Load returns are not measured
// again if they were made by the same settings.
func Evaluate(ctx context.Context, s Spec) (*Table, error) {
	v, err := Open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return v.Table(ctx, s.Entries)
}

// Evaluation is a protocol made ready: its prompts are chosen and its real images measured.
type Evaluation struct {
	spec     *Spec
	protocol *protocol
}

// Open makes the protocol ready, which looks at all real images, unless ctx ends before. Entries may be measured later, as
// they come.
func Open(ctx context.Context, s Spec) (*Evaluation, error) {
	c := s.Config
	if s.Captions == nil && c.Eval.Samples < 4 || c.Eval.Batch < 1 {
		return nil, fmt.Errorf("eval.samples is %d and eval.batch %d: measure at least 4 images in batches of at least 1", c.Eval.Samples, c.Eval.Batch)
	}
	judge, err := s.judge()
	if err != nil {
		return nil, err
	}
	p, err := s.prepare(ctx, judge)
	if err != nil {
		judge.Free()
		return nil, err
	}
	if s.SaveStats != "" {
		if err := s.saveStats(judge); err != nil {
			judge.Free()
			return nil, err
		}
	}
	return &Evaluation{&s, p}, nil
}

// Close gives device memory back.
func (v *Evaluation) Close() { v.protocol.judge.Free() }

// Table measures the undistilled model and the entries.
func (v *Evaluation) Table(ctx context.Context, entries []Entry) (*Table, error) {
	s, p := v.spec, v.protocol
	t := &Table{Metrics: p.judge.Metrics(), Facts: p.facts, Prompts: p.sheetPrompts, Protocol: p.digest}
	if p.floor != nil {
		t.add(Column{Model: "real images", Kind: report.Real}, p.floor)
	}
	rivals, err := v.rivals()
	if err != nil {
		return nil, err
	}
	entries = append(s.undistilled(), entries...)
	for _, r := range rivals {
		entries = append(entries, r.entries...)
	}
	rows, err := v.measure(ctx, entries)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		t.add(row.Column, row.Values)
	}
	for _, r := range rivals {
		for _, row := range r.known {
			t.add(row.Column, row.Values)
		}
	}
	return t, nil
}

// measure draws and measures entries.
func (v *Evaluation) measure(ctx context.Context, entries []Entry) ([]*saved, error) {
	r := runner{spec: v.spec, protocol: v.protocol, rows: len(entries)}
	for _, e := range v.spec.drawers() {
		r.lanes = append(r.lanes, &lane{engine: e})
	}
	defer r.free()
	if err := r.recallTeacher(entries); err != nil {
		return nil, err
	}
	// Numbers of thousands of images take minutes of the processor: those of a row are made while the next one is drawn.
	behind, line := errgroup.WithContext(ctx)
	behind.SetLimit(v.protocol.judge.AtOnce())
	rows := make([]*saved, len(entries))
	var failure error
	for _, i := range teacherFirst(entries) {
		e := entries[i]
		named := func(err error) error { return fmt.Errorf("evaluating %s at %d steps: %w", e.Model, e.Steps, err) }
		if line.Err() != nil {
			break
		}
		measure, err := r.row(line, e)
		if err != nil {
			failure = named(err)
			break
		}
		behind.Go(func() (err error) {
			if rows[i], err = measure(); err != nil {
				err = named(err)
			}
			return err
		})
	}
	return rows, cmp.Or(behind.Wait(), failure, ctx.Err())
}

// teacherFirst is the order in which entries are measured: the others are compared with the teacher's images.
func teacherFirst(entries []Entry) []int {
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	if at := slices.IndexFunc(entries, func(e Entry) bool { return e.Kind == report.Teacher }); at > 0 {
		order = append([]int{at}, slices.Delete(order, at, at+1)...)
	}
	return order
}

// drawers are the engines that images are drawn by.
func (s *Spec) drawers() []*engine.Engine {
	if len(s.Drawers) > 0 {
		return s.Drawers
	}
	return []*engine.Engine{s.Engine}
}

// drawer is the first of them.
func (s *Spec) drawer() *engine.Engine { return s.drawers()[0] }

// judge opens the convention's judge.
func (s *Spec) judge() (Judge, error) {
	c := s.Config.Eval
	opt := stats.Resampling{Resamples: c.Bootstrap, Seed: c.Seed}
	if s.Convention == "" || s.Convention == metric.Convention {
		if len(s.ReferenceStats) > 0 {
			return nil, fmt.Errorf("convention %s measures from images, not from saved statistics: give the images", metric.Convention)
		}
		net, err := metric.Open(s.Engine, s.Pipeline, min(c.Batch, looked))
		if err != nil {
			return nil, err
		}
		j := &miniJudge{net: net, resampling: opt, started: s.Metric}
		if j.independent, err = s.independent(); err != nil {
			j.Free()
			return nil, err
		}
		return j, nil
	}
	standard, err := metric.FindStandard(s.Convention)
	if err != nil {
		return nil, err
	}
	meter, err := metric.OpenMeter(s.Engine, standard, s.Sources, c.Batch)
	if err != nil {
		return nil, err
	}
	meter.Started = s.Metric
	j := &meterJudge{meter: meter, resampling: opt}
	if len(s.ReferenceStats) > 0 {
		if err := j.referTo(s.ReferenceStats); err != nil {
			j.Free()
			return nil, err
		}
	}
	return j, nil
}

// independent opens the network of a second opinion, where the settings name one and its file is there: a run that was made
// on another machine can be measured without.
func (s *Spec) independent() (*metric.Independent, error) {
	name := cmp.Or(s.Sources.Inception, s.Config.Eval.Inception)
	if name == "" {
		return nil, nil
	}
	n, err := metric.OpenIndependent(s.Engine, name, min(s.Config.Eval.Batch, looked))
	if s.Sources.Inception == "" && errors.Is(err, fs.ErrNotExist) {
		s.warn("no second opinion by an independent network: %v", err)
		s.facts = append(s.facts, report.Fact{Name: "Independent network", Value: "not measured: " + name + " was not there; python3 scripts/fetch_nsfwjs.py fetches it"})
		return nil, nil
	}
	return n, err
}

// looked is the most images that a network of the convention mini-clip looks at at once.
const looked = 64

// baseModel names the undistilled model in the table.
const baseModel = "teacher"

// undistilled lists the teacher and its network at fewer steps, with guidance and without.
func (s *Spec) undistilled() []Entry {
	if s.Base == nil {
		return nil
	}
	e := s.Config.Eval
	entry := func(kind report.Kind, steps int, guidance float64) Entry {
		return Entry{Model: baseModel, Kind: kind, Steps: steps, Guidance: guidance, Prediction: s.Pipeline.Prediction, Load: s.Base}
	}
	out := []Entry{entry(report.Teacher, e.TeacherSteps, e.Guidance)}
	for _, guidance := range slices.Compact([]float64{e.Guidance, 0}) {
		for _, n := range e.Steps {
			if n != e.TeacherSteps || guidance != e.Guidance {
				out = append(out, entry(report.Undistilled, n, guidance))
			}
		}
	}
	return out
}

// calls is the number of network calls per image; 0 for images made elsewhere without steps.
func (e Entry) calls() int { return sample.Options{Steps: e.Steps, Guidance: e.Guidance}.Calls() }

var (
	validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$`)
	unfit     = regexp.MustCompile(`[^A-Za-z0-9._]+`)
)

func (s *Spec) report(p Progress) {
	if s.Progress != nil {
		s.Progress(p)
	}
}

func (s *Spec) warn(format string, args ...any) {
	if s.Warn != nil {
		s.Warn(fmt.Sprintf(format, args...))
	}
}
