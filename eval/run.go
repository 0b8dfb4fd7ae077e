package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"math"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/eval/stats"
	"fewstep/model/pipeline"
)

// Spec is an evaluation: what is measured, by which settings.
type Spec struct {
	Engine   *engine.Engine     // measures, and draws if Drawer is nil; best at granularity nn.Network, in f32
	Drawer   *engine.Engine     // draws; may compute in bf16
	Pipeline *pipeline.Pipeline // text encoders, VAE, schedule and the metrics' CLIPModel
	Config   *distill.Config    // Eval and Data decide the protocol

	// Base loads the undistilled model, once: the teacher, and the same network at fewer steps. nil leaves them out.
	Base    Loader
	Entries []Entry // the models to measure beside it

	// Captions replace the mini protocol's prompts, which are drawn from the data set: one image each, in their order.
	// Reference are then the real images that distances are measured from, a captioned parquet file or a folder; ""
	// leaves the distances out.
	Captions  *CaptionList
	Reference string

	// Convention names how images are measured: "" is mini-clip, others need the networks that Sources name. With these,
	// ReferenceStats may stand for the real images: the .npz files of whole images and of patches, as pytorch-fid and
	// clean-fid save them.
	Convention     string
	Sources        metric.Sources
	ReferenceStats []string

	// Images is a folder that keeps every image as a PNG; a stopped row goes on from those that are there. "" = none.
	Images string

	// Save keeps the result of one row and Load returns it, so that a stopped evaluation continues. Both may be nil.
	Save func(name string, data []byte) error
	Load func(name string) ([]byte, bool)

	Progress func(Progress)            // may be nil
	Warn     func(string)              // may be nil
	Timed    func(report.Timing) error // is given the time per image of each row that was drawn; may be nil
}

// Entry is one model at one step count.
type Entry struct {
	Model      string             // name in the table: "8step_lora"
	Kind       report.Kind        //
	Steps      int                // of inference
	Guidance   float64            // classifier-free guidance; 0 or 1 = none
	Prediction distill.Prediction // of its network
	Sampler    scheduler.Name     // "" = the students' own
	Digest     string             // of its weights: a saved row of other weights is measured again; may be empty

	Load     Loader
	Pipeline *pipeline.Pipeline // its text encoders, VAE and schedule; nil = the evaluation's
	Images   string             // a folder of images made elsewhere, in the order of the captions, instead of a model
	Files    []report.Artifact  // what it was read from, for the report
}

// Loader puts the parameters of a UNet without adapters on the device, and says how to give them back.
type Loader func() (params *engine.Params, free func(), err error)

// Progress says how far an evaluation is.
type Progress struct {
	Model        string
	Steps, Calls int
	Row, Rows    int // of the table, counted from 1; 0 before the first
	Done, Total  int // images of this row
	Saved        bool
}

// Table is the result: rows in the order in which they were measured, and the pictures of the sheets.
type Table struct {
	Rows    []report.Row
	Metrics []report.Metric
	Facts   []report.Fact
	Prompts []string // of the sheets
	Columns []Column

	results []result
}

// Column is a model's pictures on the sheets, one PNG per prompt.
type Column struct {
	Model    string      `json:"model"`
	Kind     report.Kind `json:"kind"`
	Steps    int         `json:"steps"`
	Calls    int         `json:"calls"`
	Pictures [][]byte    `json:"pictures"`
}

// saved is the form in which a row is kept.
type saved struct {
	Digest string  `json:"digest"`
	Values []Value `json:"values"`
	Column Column  `json:"column"`
}

// Evaluate measures the real images, the undistilled model and every entry. Rows that Load returns are not measured
// again if they were made by the same settings.
func Evaluate(ctx context.Context, s Spec) (*Table, error) {
	v, err := Open(s)
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

// Open makes the protocol ready. Entries may be measured later, as they come.
func Open(s Spec) (*Evaluation, error) {
	c := s.Config
	if s.Captions == nil && c.Eval.Samples < 4 || c.Eval.Batch < 1 {
		return nil, fmt.Errorf("eval.samples is %d and eval.batch %d: measure at least 4 images in batches of at least 1", c.Eval.Samples, c.Eval.Batch)
	}
	judge, err := s.judge()
	if err != nil {
		return nil, err
	}
	p, err := s.prepare(judge)
	if err != nil {
		judge.Free()
		return nil, err
	}
	return &Evaluation{&s, p}, nil
}

// Close gives device memory back.
func (v *Evaluation) Close() { v.protocol.judge.Free() }

// Table measures the undistilled model and the entries.
func (v *Evaluation) Table(ctx context.Context, entries []Entry) (*Table, error) {
	s, p := v.spec, v.protocol
	t := &Table{Metrics: p.judge.Metrics(), Facts: p.facts, Prompts: p.sheetPrompts}
	if p.floor != nil {
		t.add(Column{Model: "real images", Kind: report.Real}, p.floor)
	}
	entries = append(s.undistilled(), entries...)
	r := runner{spec: s, protocol: p, rows: len(entries)}
	defer r.free()
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		row, err := r.row(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("evaluating %s at %d steps: %w", e.Model, e.Steps, err)
		}
		t.add(row.Column, row.Values)
	}
	return t, nil
}

// drawer is the engine that images are drawn by.
func (s *Spec) drawer() *engine.Engine {
	if s.Drawer != nil {
		return s.Drawer
	}
	return s.Engine
}

// judge opens the convention's judge.
func (s *Spec) judge() (Judge, error) {
	c := s.Config.Eval
	opt := stats.Resampling{Resamples: c.Bootstrap, Seed: c.Seed}
	if s.Convention == "" || s.Convention == metric.Convention {
		if len(s.ReferenceStats) > 0 {
			return nil, fmt.Errorf("convention %s measures from images, not from saved statistics: give the images", metric.Convention)
		}
		net, err := metric.Open(s.Engine, s.Pipeline, c.Batch)
		if err != nil {
			return nil, err
		}
		return &miniJudge{net: net, resampling: opt}, nil
	}
	standard, err := metric.FindStandard(s.Convention)
	if err != nil {
		return nil, err
	}
	meter, err := metric.OpenMeter(s.Engine, standard, s.Sources, c.Batch)
	if err != nil {
		return nil, err
	}
	j := &meterJudge{meter: meter, resampling: opt}
	if len(s.ReferenceStats) > 0 {
		if err := j.referTo(s.ReferenceStats); err != nil {
			j.Free()
			return nil, err
		}
	}
	return j, nil
}

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

// runner measures entries.
type runner struct {
	spec     *Spec
	protocol *protocol
	rows     int // of the table
	at       int // row

	model     *engine.Params // last used: rows of the same weights follow each other
	weights   string         // which these are
	freeModel func()
	encoders  *pipeline.Encoders // of the pipeline last used
	of        *pipeline.Pipeline
}

func (r *runner) free() {
	if r.model != nil {
		r.freeModel()
		r.model = nil
	}
	if r.encoders != nil {
		r.encoders.Free()
		r.encoders = nil
	}
}

// row measures one entry, or returns what was saved of it.
func (r *runner) row(ctx context.Context, e Entry) (*saved, error) {
	p := r.protocol
	r.at++
	sum, err := digest(p.digest, e.Model, e.Kind, e.Steps, e.Guidance, e.Prediction, e.Digest, e.Sampler)
	if err != nil {
		return nil, err
	}
	name := e.fileName()
	note := Progress{Model: e.Model, Steps: e.Steps, Calls: e.calls(), Row: r.at, Rows: r.rows, Total: len(p.prompts)}
	done := func(n int) {
		note.Done = n
		r.spec.report(note)
	}
	if r.spec.Load != nil {
		if raw, ok := r.spec.Load(name + ".json"); ok {
			var s saved
			if json.Unmarshal(raw, &s) == nil && s.Digest == sum {
				note.Saved = true
				done(note.Total)
				return &s, nil
			}
		}
	}
	s := &saved{Digest: sum, Column: Column{Model: e.Model, Kind: e.Kind, Steps: e.Steps, Calls: e.calls()}}
	features := make([]Features, 0, len(p.prompts))
	look := func(b batch) error {
		f, err := p.judge.Features(b.images)
		if err != nil {
			return fmt.Errorf("images from %d on: %w", b.first, err)
		}
		features = append(features, f...)
		if p.sheetOfPrompts() {
			for k, img := range b.images {
				if b.first+k < len(p.sheetPrompts) {
					if err := s.Column.add(img); err != nil {
						return err
					}
				}
			}
		}
		done(len(features))
		return nil
	}
	if e.Images != "" {
		err = r.found(ctx, e, look)
	} else {
		err = r.drawn(ctx, e, name, sum, look, func(b batch) error {
			for _, img := range b.images {
				if err := s.Column.add(img); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	if s.Values, err = p.judge.Measure(features, p.captions); err != nil {
		return nil, err
	}
	if r.spec.Save == nil {
		return s, nil
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return s, r.spec.Save(name+".json", raw)
}

// drawn draws an entry's images: those that are measured, and those that only stand on the sheet.
func (r *runner) drawn(ctx context.Context, e Entry, name, sum string, look, show func(batch) error) error {
	p := r.protocol
	d := &drawing{engine: r.spec.drawer(), pipeline: r.spec.Pipeline, side: p.resolution}
	if e.Pipeline != nil {
		d.pipeline = e.Pipeline
	}
	broken := 0
	var err error
	d.kept, err = openKept(r.spec.Images, name, keptSettings{Digest: sum, Model: e.Model, Steps: e.Steps}, func(path string, err error) {
		broken++
		r.spec.warn("%s cannot be read and is drawn again: %v", path, err)
	})
	if err != nil {
		return err
	}
	d.open = func() error {
		if err := r.encode(d.pipeline); err != nil {
			return err
		}
		d.encoders = r.encoders
		model, err := r.load(e)
		d.params = model
		return err
	}
	d.options = sample.Options{Steps: e.Steps, Guidance: e.Guidance, Prediction: e.Prediction, Seed: p.settings.Seed, Size: pipeline.Square(p.resolution), Batch: p.settings.Batch}
	if e.Sampler != "" && e.Sampler != scheduler.Trained {
		settings, err := scheduler.ReadSettings(d.pipeline.Dir)
		if err != nil {
			return err
		}
		plan, err := e.Sampler.Plan(d.pipeline.Schedule, e.Prediction, settings, e.Steps)
		if err != nil {
			return err
		}
		d.plan = &plan
	}
	if err := d.draw(ctx, p.prompts, look); err != nil {
		return err
	}
	if broken > 0 {
		r.spec.warn("%d images of %s at %d steps were broken", broken, e.Model, e.Steps)
	}
	if seconds := d.clock.perImage(); seconds > 0 && r.spec.Timed != nil {
		t := report.Timing{Model: e.Model, Kind: e.Kind, Steps: e.Steps, Calls: e.calls(), SecondsPerImage: seconds, Busy: d.clock.share(), Device: deviceName(d.engine)}
		if err := r.spec.Timed(t); err != nil {
			return err
		}
	}
	if p.sheetOfPrompts() {
		return nil
	}
	d.kept, d.options.First = nil, sheetNoise
	return d.draw(ctx, p.sheetPrompts, show)
}

// deviceName says what drew, for a report: "cuda", or "cpu, 2 cores".
func deviceName(e *engine.Engine) string {
	name, _, _ := strings.Cut(e.Backend.Description(), " ")
	if name = path.Base(name); name != "cuda" {
		name += fmt.Sprintf(", %d cores", runtime.NumCPU())
	}
	return name
}

// encode loads the encoders of an entry's pipeline.
func (r *runner) encode(p *pipeline.Pipeline) (err error) {
	if r.of == p && r.encoders != nil {
		return nil
	}
	if r.encoders != nil {
		r.encoders.Free()
		r.encoders = nil
	}
	r.encoders, err = p.LoadEncoders(r.spec.drawer(), r.spec.Config.Eval.Batch, pipeline.TextPart, pipeline.VAEPart)
	r.of = p
	return err
}

// load returns an entry's parameters. Those of the row before stay where they are the same.
func (r *runner) load(e Entry) (*engine.Params, error) {
	weights := e.Digest
	if weights == "" && e.undistilled() {
		weights = baseModel
	}
	if r.model != nil && weights != "" && weights == r.weights {
		return r.model, nil
	}
	if r.model != nil {
		r.freeModel()
		r.model = nil
	}
	var err error
	r.model, r.freeModel, err = e.Load()
	r.weights = weights
	return r.model, err
}

func (e Entry) undistilled() bool {
	return e.Model == baseModel && (e.Kind == report.Teacher || e.Kind == report.Undistilled)
}

// fileName names a row's files: "full-8step-8-8". What a file's name cannot hold becomes a digest.
func (e Entry) fileName() string {
	model := e.Model
	if !validName.MatchString(model) {
		sum, _ := digest(model)
		model = strings.Trim(unfit.ReplaceAllString(model, "-"), "-.") + "-" + sum[:8]
	}
	return fmt.Sprintf("%s-%s-%d-%d", e.Kind, model, e.Steps, e.calls())
}

var (
	validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$`)
	unfit     = regexp.MustCompile(`[^A-Za-z0-9._]+`)
)

func (c *Column) add(img image.Image) error {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	c.Pictures = append(c.Pictures, b.Bytes())
	return nil
}

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

// add appends a model's rows and, where it has pictures, its column.
func (t *Table) add(c Column, all []Value) {
	t.results = append(t.results, result{c, all})
	for _, v := range all {
		row := report.Row{Model: c.Model, Steps: c.Steps, Calls: c.Calls, Kind: c.Kind, Metric: v.Metric, Convention: t.convention(v.Metric),
			Value: v.Value, Low: math.NaN(), High: math.NaN(), Samples: v.Samples}
		if v.Low != nil && v.High != nil {
			row.Low, row.High = *v.Low, *v.High
		}
		t.Rows = append(t.Rows, row)
	}
	if len(c.Pictures) > 0 {
		t.Columns = append(t.Columns, c)
	}
}

func (t *Table) convention(name string) string {
	for _, m := range t.Metrics {
		if m.Name == name {
			return m.Convention
		}
	}
	return metric.Convention
}
