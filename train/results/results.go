// Package results turns what a run's phases made into what its user takes away: exported files and a sample sheet as
// soon as a stage has them, and at the end the measured report. Everything here is repeatable: work that is done is
// left alone, and the same run gives the same bytes.
package results

import (
	"context"
	"fmt"
	"image"
	"log/slog"
	"strings"
	"time"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/export"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/gomlx/compute/dtypes"
	"golang.org/x/sync/errgroup"
)

// Maker makes the results of one run.
type Maker struct {
	Log        *slog.Logger
	embeddings []family.Conditions // of the sheets' prompts, encoded once per process
	empty      family.Conditions   // of the empty prompt; nil = zeros
	teacher    []image.Image       // the sheets' left column, drawn once per process
}

// Phase exports what a finished phase made and draws its sample sheet.
func (m *Maker) Phase(ctx context.Context, r *train.Run, step distill.Step) error {
	if err := m.Export(ctx, r, step); err != nil {
		return err
	}
	return m.Sheet(ctx, r, step)
}

// Export exports what a finished phase made. It takes no device, so that it may go on beside training.
func (m *Maker) Export(_ context.Context, r *train.Run, step distill.Step) error {
	owed, err := export.Missing(r.Dir, []distill.Step{step})
	if err != nil {
		return err
	}
	if len(owed) > 0 {
		if err := export.Artifact(r.Dir, r.Config, step); err != nil {
			return err
		}
		m.Log.Info("exported", "file", r.Dir.ArtifactPath(rundir.Exports, export.Name(step)))
	}
	return nil
}

// meter returns the engine that measures, in f32: the run's own if it computes whole networks in f32, otherwise a new one.
// Pictures are drawn on the run's own engine, with the arithmetic and the granularity of its recipe.
func (m *Maker) meter(r *train.Run) *engine.Engine {
	if r.Engine.Granularity == nn.Network && r.Engine.Compute == dtypes.Float32 {
		return r.Engine
	}
	return engine.New(r.Engine.Backend, dtypes.Float32, nn.Network)
}

// sheetPrompts are the recipe's, or captions spread over the data set.
func sheetPrompts(r *train.Run) []string {
	c := r.Config.Eval
	if len(c.SheetPrompts) > 0 {
		return c.SheetPrompts
	}
	n := min(c.SheetSamples, r.Data.Len())
	out := make([]string, n)
	for i := range n {
		out[i] = r.Data.Row(i * r.Data.Len() / n).Caption
	}
	return out
}

// Sheet draws the step's model from fixed noise, the teacher beside. Where that fails, for want of memory say, the run goes
// on without: a picture is not worth the days of training behind and before it, and the next start tries again.
func (m *Maker) Sheet(ctx context.Context, r *train.Run, step distill.Step) error {
	c := r.Config.Eval
	name := strings.ReplaceAll(string(step.Produces), "@", "-") + "step.png"
	if c.SheetSamples == 0 && len(c.SheetPrompts) == 0 {
		return nil
	}
	if have, err := r.Dir.HasArtifact(rundir.Sheets, name); err != nil || have {
		return err
	}
	png, err := m.compose(ctx, r, step)
	switch {
	case err == nil:
		return r.Dir.SaveArtifact(rundir.Sheets, rundir.Bytes(name, png))
	case ctx.Err() != nil:
		return train.ErrInterrupted
	}
	m.Log.Warn("no sample sheet was drawn, training goes on", "sheet", name, "why", err, "again", "when the same command is started the next time")
	return nil
}

// compose draws a sheet as a PNG.
func (m *Maker) compose(ctx context.Context, r *train.Run, step distill.Step) ([]byte, error) {
	c, prompts := r.Config.Eval, sheetPrompts(r)
	var err error
	if m.embeddings == nil {
		if err = m.encode(r, prompts); err != nil {
			return nil, err
		}
	}
	if m.teacher == nil {
		if m.teacher, err = m.draw(ctx, r, r.Base, sample.Options{Steps: c.TeacherSteps, Guidance: c.Guidance, Prediction: r.Pipeline.Prediction}); err != nil {
			return nil, err
		}
	}
	o := sample.Options{Steps: step.StudentSteps, Prediction: step.Prediction}
	if step.Sampler != "" {
		if o.Plan, err = scheduler.Name(step.Sampler).PlanBy(r.Pipeline.Scheduler, r.Pipeline.Schedule, step.Prediction, step.StudentSteps, step.Original); err != nil {
			return nil, err
		}
	}
	own, err := m.draw(ctx, r, func(e *engine.Engine) (*engine.Params, func(), error) { return r.Model(e, step) }, o)
	if err != nil {
		return nil, err
	}
	rows := make([][]image.Image, len(prompts))
	for i := range rows {
		rows[i] = []image.Image{m.teacher[i], own[i]}
	}
	return report.ComposeSheet(rows, prompts, []string{fmt.Sprintf("teacher, %d guided steps", c.TeacherSteps), string(step.Produces)})
}

// Text encoders, UNet and VAE are on the device one after the other, so that a sheet takes less of it than training does.

func (m *Maker) encode(r *train.Run, prompts []string) error {
	enc, err := encoder.Load(r.Pipeline, r.Engine, r.Config.Eval.Batch, encoder.TextPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	if m.empty, err = enc.Empty(); err != nil {
		return err
	}
	m.embeddings, err = enc.Text(prompts)
	return err
}

// draw draws one picture per prompt of the sheets. The run's devices take equal parts of them, in batches no larger than that:
// sums over a batch of another size may differ in their last bits.
func (m *Maker) draw(ctx context.Context, r *train.Run, load eval.Loader, o sample.Options) ([]image.Image, error) {
	c, engines, n := r.Config.Eval, r.Engines(), len(m.embeddings)
	o.Seed, o.Size, o.Batch, o.Negative = c.Seed, pipeline.Square(r.Config.Data.Resolution), c.Batch, m.empty
	if len(engines) > 1 {
		o.Batch = min(o.Batch, (n+len(engines)-1)/len(engines))
	}
	told := monitor.LogProgress(m.Log, "drawing a sample sheet", "steps", 0) // the device may lag a batch behind
	o.Progress = func(done, total int) {
		told(done, total)
		r.Working("drawing a sample sheet")
	}
	out := make([]image.Image, n)
	g, ctx := errgroup.WithContext(ctx)
	for i, e := range engines {
		from, to := i*n/len(engines), (i+1)*n/len(engines)
		o := o
		if o.First = int64(from); i > 0 {
			o.Progress = nil // the devices are equally far
		}
		g.Go(func() error {
			values, err := m.drawOn(ctx, r, e, load, m.embeddings[from:to], o)
			for k, v := range values {
				out[from+k] = sample.Image(v, o.Size)
			}
			return err
		})
	}
	return out, g.Wait()
}

// drawOn draws pictures [H·W·3] on one device.
func (m *Maker) drawOn(ctx context.Context, r *train.Run, e *engine.Engine, load eval.Loader, prompts []family.Conditions, o sample.Options) ([][]float32, error) {
	if len(prompts) == 0 {
		return nil, nil
	}
	model, free, err := load(e)
	if err != nil {
		return nil, err
	}
	latents, err := sample.Latents(ctx, e, r.Pipeline, model, prompts, o)
	free()
	if err != nil {
		return nil, err
	}
	enc, err := encoder.Load(r.Pipeline, e, o.Batch, encoder.VAEPart)
	if err != nil {
		return nil, err
	}
	defer enc.Free()
	return enc.Images(latents, o.Size)
}

// Unmeasured says why a run can have no metrics of its own, and so no report; "" where it can.
func Unmeasured(r *train.Run) string {
	if r.Pipeline.Vision == nil {
		return "the model has no clip folder with a CLIPModel for the metrics"
	}
	splits := map[string]bool{}
	for i := range r.Data.Len() {
		splits[r.Data.Row(i).Split] = true
	}
	if !splits["train"] || !splits["eval"] {
		return "the data set has no split column with both train and eval"
	}
	return ""
}

// Report measures every exported model beside the undistilled one and writes the report, unless the run is Unmeasured.
// It says whether there was anything to do.
func (m *Maker) Report(ctx context.Context, r *train.Run) (worked bool, err error) {
	if Unmeasured(r) != "" {
		return false, nil
	}
	if have, err := eval.Reported(r.Dir); err != nil || have {
		return false, err
	}
	r.During(ctx)
	defer r.During(nil)
	s := eval.Spec{Engine: m.meter(r), Drawers: r.Engines(), Pipeline: r.Pipeline, Config: r.Config, Base: r.Base, Progress: m.progress(),
		Metric: func(name string) { m.Log.Info("computing " + name) }}
	s.Keep(r.Dir)
	s.BaseWeights = r.Dir.Lineage().BaseWeights
	s.Warn = func(text string) { m.Log.Warn(text) }
	first, counts, _ := eval.Earlier(r.Ladder)
	for _, step := range r.Ladder.Steps() {
		if !step.Final || export.IsLoRA(step) && step.Stage == 0 && step.Phase != first.Phase {
			continue // the first stage's LoRA is only the next one's start
		}
		result, err := r.Dir.Result(step.StageName, step.PhaseName)
		if err != nil {
			return false, err
		}
		e := eval.Entry{Kind: report.Full, Digest: result.Digest(), Load: func(on *engine.Engine) (*engine.Params, func(), error) { return r.Model(on, step) }}.MadeBy(step)
		of := "%dstep"
		if export.IsLoRA(step) {
			of, e.Kind = of+"_lora", report.LoRA
		}
		for _, e.Steps = range r.Config.Eval.StepsOf(step.StudentSteps, step.Original > 0) {
			e.Model = fmt.Sprintf(of, e.Steps)
			s.Entries = append(s.Entries, e)
		}
		e.Steps = step.StudentSteps
		if step.Stage == first.Stage && step.Phase == first.Phase {
			s.Entries = append(s.Entries, e.AtFewerSteps(counts)...)
		}
	}
	t, err := eval.Evaluate(ctx, s)
	if err != nil {
		if ctx.Err() != nil {
			return true, train.ErrInterrupted
		}
		return true, err
	}
	return true, eval.WriteReport(r.Dir, t, nil)
}

// progress logs each finished row, and every ten seconds within one.
func (m *Maker) progress() func(eval.Progress) {
	last := time.Now()
	return func(p eval.Progress) {
		if p.Done < p.Total && time.Since(last) < 10*time.Second {
			return
		}
		last = time.Now()
		m.Log.Info("measuring", "model", p.Model, "steps", p.Steps, "calls", p.Calls, "row", fmt.Sprintf("%d/%d", p.Row, p.Rows), "images", fmt.Sprintf("%d/%d", p.Done, p.Total))
	}
}
