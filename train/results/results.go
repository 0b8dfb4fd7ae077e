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
	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/export"
	"fewstep/train/rundir"

	"github.com/gomlx/compute/dtypes"
)

// Maker makes the results of one run.
type Maker struct {
	Log     *slog.Logger
	teacher []image.Image // the sheets' left column, drawn once per process
	engine  *engine.Engine
}

// Phase exports what a finished phase made and draws its sample sheet.
func (m *Maker) Phase(ctx context.Context, r *train.Run, step distill.Step) error {
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
	return m.sheet(ctx, r, step)
}

// forInference is the run's own engine where it is fit to share its programs, else one of its own.
func (m *Maker) forInference(r *train.Run) *engine.Engine {
	if r.Engine.Granularity == nn.Network && r.Engine.Compute == dtypes.Float32 {
		return r.Engine
	}
	if m.engine == nil {
		m.engine = engine.New(r.Engine.Backend, dtypes.Float32, nn.Network)
	}
	return m.engine
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

// sheet draws the step's model from fixed noise, the teacher beside.
func (m *Maker) sheet(ctx context.Context, r *train.Run, step distill.Step) error {
	c := r.Config.Eval
	name := strings.ReplaceAll(string(step.Produces), "@", "-") + "step.png"
	if c.SheetSamples == 0 && len(c.SheetPrompts) == 0 {
		return nil
	}
	if have, err := r.Dir.HasArtifact(rundir.Sheets, name); err != nil || have {
		return err
	}
	prompts := sheetPrompts(r)
	e := m.forInference(r)
	enc, err := r.Pipeline.LoadEncoders(e, c.Batch, pipeline.TextPart, pipeline.VAEPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	embeddings, err := enc.Text(prompts)
	if err != nil {
		return err
	}
	draw := func(load func() (*engine.Params, func(), error), o sample.Options) (out []image.Image, err error) {
		model, free, err := load()
		if err != nil {
			return nil, err
		}
		defer free()
		o.Seed, o.Size, o.Batch = c.Seed, pipeline.Square(r.Config.Data.Resolution), c.Batch
		z, err := sample.Latents(ctx, e, r.Pipeline, model, embeddings, o)
		if err != nil {
			return nil, err
		}
		pictures, err := enc.Images(z, o.Size)
		if err != nil {
			return nil, err
		}
		for _, v := range pictures {
			out = append(out, sample.Image(v, o.Size))
		}
		return out, nil
	}
	if m.teacher == nil {
		if m.teacher, err = draw(r.Base, sample.Options{Steps: c.TeacherSteps, Guidance: c.Guidance, Prediction: r.Pipeline.Prediction}); err != nil {
			return err
		}
	}
	own, err := draw(func() (*engine.Params, func(), error) { return r.Model(step) }, sample.Options{Steps: step.StudentSteps, Prediction: step.Prediction})
	if err != nil {
		return err
	}
	rows := make([][]image.Image, len(prompts))
	for i := range rows {
		rows[i] = []image.Image{m.teacher[i], own[i]}
	}
	png, err := report.ComposeSheet(rows, prompts, []string{fmt.Sprintf("teacher, %d guided steps", c.TeacherSteps), string(step.Produces)})
	if err != nil {
		return err
	}
	return r.Dir.SaveArtifact(rundir.Sheets, rundir.Bytes(name, png))
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
	if have, err := r.Dir.HasArtifact(rundir.Report, "index.html"); err != nil || have {
		return false, err
	}
	s := eval.Spec{Engine: m.forInference(r), Pipeline: r.Pipeline, Config: r.Config, Base: r.Base, Progress: m.progress(),
		Metric: func(name string) { m.Log.Info("computing " + name) }}
	s.Keep(r.Dir)
	for _, step := range r.Ladder.Steps() {
		if !step.Final || export.IsLoRA(step) && step.Stage == 0 {
			continue // the first stage's LoRA is only the next one's start
		}
		result, err := r.Dir.Result(step.StageName, step.PhaseName)
		if err != nil {
			return false, err
		}
		e := eval.Entry{Model: fmt.Sprintf("%dstep", step.StudentSteps), Kind: report.Full, Steps: step.StudentSteps, Prediction: step.Prediction,
			Digest: result.Digest(), Load: func() (*engine.Params, func(), error) { return r.Model(step) }}
		if export.IsLoRA(step) {
			e.Model, e.Kind = e.Model+"_lora", report.LoRA
		}
		s.Entries = append(s.Entries, e)
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
