package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"slices"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/model/pipeline"
)

// Spec is an evaluation: what is measured, by which settings.
type Spec struct {
	Engine   *engine.Engine     // best at granularity nn.Network
	Pipeline *pipeline.Pipeline // text encoders, VAE, schedule and the metrics' CLIPModel
	Config   *distill.Config    // Eval and Data decide the protocol

	// Base loads the undistilled model, once: the teacher, and the same network at fewer steps. nil leaves them out.
	Base    Loader
	Entries []Entry // the models to measure beside it

	// Save keeps the result of one row and Load returns it, so that a stopped evaluation continues. Both may be nil.
	Save func(name string, data []byte) error
	Load func(name string) ([]byte, bool)

	Progress func(Progress) // may be nil
}

// Entry is one model at one step count.
type Entry struct {
	Model      string             // name in the table: "8step_lora"
	Kind       report.Kind        //
	Steps      int                // of inference
	Guidance   float64            // classifier-free guidance; 0 or 1 = none
	Prediction distill.Prediction // of its network
	Digest     string             // of its weights: a saved row of other weights is measured again; may be empty

	Load Loader
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
	Digest string   `json:"digest"`
	Values []values `json:"values"`
	Column Column   `json:"column"`
}

// values is one number; without an interval Low and High are nil.
type values struct {
	Metric    string   `json:"metric"`
	Value     float64  `json:"value"`
	Low, High *float64 `json:",omitempty"`
	Samples   int      `json:"samples"`
}

// Evaluate measures the real images, the undistilled model and every entry. Rows that Load returns are not measured
// again if they were made by the same settings.
func Evaluate(ctx context.Context, s Spec) (*Table, error) {
	c := s.Config
	if c.Eval.Samples < 4 || c.Eval.Batch < 1 {
		return nil, fmt.Errorf("eval.samples is %d and eval.batch %d: measure at least 4 images in batches of at least 1", c.Eval.Samples, c.Eval.Batch)
	}
	enc, err := s.Pipeline.LoadEncoders(s.Engine, c.Eval.Batch, pipeline.TextPart, pipeline.VAEPart)
	if err != nil {
		return nil, err
	}
	defer enc.Free()
	net, err := metric.Open(s.Engine, s.Pipeline, c.Eval.Batch)
	if err != nil {
		return nil, err
	}
	defer net.Free()
	p, err := s.prepare(enc, net)
	if err != nil {
		return nil, err
	}
	t := &Table{Metrics: p.metrics(), Facts: p.facts(c), Prompts: p.sheetPrompts}
	floor, err := p.measure(p.real, p.realTexts)
	if err != nil {
		return nil, err
	}
	t.add(Column{Model: "real images", Kind: report.Real}, floor)

	r := runner{spec: &s, protocol: p, enc: enc, net: net}
	defer r.free()
	entries := append(s.undistilled(), s.Entries...)
	for i, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		row, err := r.row(ctx, e, i, len(entries))
		if err != nil {
			return nil, fmt.Errorf("evaluating %s at %d steps: %w", e.Model, e.Steps, err)
		}
		t.add(row.Column, row.Values)
	}
	return t, nil
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

// runner measures entries.
type runner struct {
	spec     *Spec
	protocol *protocol
	enc      *pipeline.Encoders
	net      *metric.Network
	base     *engine.Params // the undistilled model, loaded once for all its rows
	freeBase func()
}

func (r *runner) free() {
	if r.base != nil {
		r.freeBase()
		r.base = nil
	}
}

func (r *runner) row(ctx context.Context, e Entry, i, n int) (*saved, error) {
	p, calls := r.protocol, sample.Options{Steps: e.Steps, Guidance: e.Guidance}.Calls()
	name := fmt.Sprintf("%s-%s-%d-%d.json", e.Kind, e.Model, e.Steps, calls)
	sum, err := digest(p.digest, e.Model, e.Kind, e.Steps, e.Guidance, e.Prediction, e.Digest)
	if err != nil {
		return nil, err
	}
	note := Progress{Model: e.Model, Steps: e.Steps, Calls: calls, Row: i + 1, Rows: n, Total: len(p.prompts)}
	if r.spec.Load != nil {
		if raw, ok := r.spec.Load(name); ok {
			var s saved
			if json.Unmarshal(raw, &s) == nil && s.Digest == sum {
				note.Saved, note.Done = true, note.Total
				r.spec.report(note)
				return &s, nil
			}
		}
	}
	model, free, err := r.load(e)
	if err != nil {
		return nil, err
	}
	defer free()
	s := &saved{Digest: sum, Column: Column{Model: e.Model, Kind: e.Kind, Steps: e.Steps, Calls: calls}}
	var features []metric.Features
	err = r.pictures(ctx, e, model, p.embeddings, 0, func(images [][]float32) error {
		f, err := r.net.Features(images, p.resolution)
		if err != nil {
			return err
		}
		for k := range images {
			if p.sheetEmbeddings == nil && len(features)+k < len(p.sheetPrompts) {
				if err := s.Column.add(images[k], p.resolution); err != nil {
					return err
				}
			}
		}
		features = append(features, f...)
		note.Done = len(features)
		r.spec.report(note)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = r.pictures(ctx, e, model, p.sheetEmbeddings, sheetNoise, func(images [][]float32) error {
		for _, v := range images {
			if err := s.Column.add(v, p.resolution); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.Values, err = p.measure(features, p.texts); err != nil {
		return nil, err
	}
	if r.spec.Save == nil {
		return s, nil
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return s, r.spec.Save(name, raw)
}

// load returns an entry's parameters; the undistilled model's stay loaded from row to row.
func (r *runner) load(e Entry) (*engine.Params, func(), error) {
	if !e.undistilled() {
		r.free() // no row after this needs it
		return e.Load()
	}
	if r.base == nil {
		m, free, err := e.Load()
		if err != nil {
			return nil, nil, err
		}
		r.base, r.freeBase = m, free
	}
	return r.base, func() {}, nil
}

func (e Entry) undistilled() bool {
	return e.Model == baseModel && (e.Kind == report.Teacher || e.Kind == report.Undistilled)
}

// pictures draws, decodes and hands over one batch at a time.
func (r *runner) pictures(ctx context.Context, e Entry, model *engine.Params, prompts []pipeline.Embedding, first int64, take func([][]float32) error) error {
	p := r.protocol
	o := sample.Options{Steps: e.Steps, Guidance: e.Guidance, Prediction: e.Prediction, Seed: p.settings.Seed, Size: pipeline.Square(p.resolution), Batch: p.settings.Batch}
	for start := 0; start < len(prompts); start += o.Batch {
		o.First = first + int64(start)
		latents, err := sample.Latents(ctx, r.spec.Engine, r.spec.Pipeline, model, prompts[start:min(start+o.Batch, len(prompts))], o)
		if err != nil {
			return err
		}
		images, err := r.enc.Images(latents, o.Size)
		if err != nil {
			return err
		}
		if err := take(images); err != nil {
			return err
		}
	}
	return nil
}

func (c *Column) add(v []float32, side int) error {
	var b bytes.Buffer
	var img image.Image = sample.Image(v, pipeline.Square(side))
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
