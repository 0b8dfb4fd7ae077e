package main

import (
	"fmt"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/internal/atomicfile"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
)

func init() { register(newEval) }

type evalOptions struct {
	model, unet, lora string
	data, sheet       string
	steps             []int
	guidance          []float64
	samples, batch    int
	bootstrap         int
	seed              uint64
	captions          []float64
}

func newEval(a *app) *cobra.Command {
	var o evalOptions
	c := &cobra.Command{
		Use:   "eval",
		Short: "Measure a model: Fréchet distances from real images, and CLIP score.",
		Long: "Measures a model at one or more step counts by the protocol of the reports.\n\n" +
			"Prompts are drawn from a captioned data set; one image of each is compared with its real images, in features of the\n" +
			"pipeline's own CLIP (convention mini-clip; not FID). The first row is the floor: held-out real images against the others.",
		Example: "  fewstep eval --model assets/mini --steps 8,4,2,1 --guidance 0,3\n" +
			"  fewstep eval --unet runs/demo/exports/4step_unet.safetensors",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.eval(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "assets/mini", "diffusers directory with a clip folder")
	f.StringVar(&o.unet, "unet", "", "UNet state dict in place of the directory's, as in a run's exports folder")
	f.StringVar(&o.lora, "lora", "", "LoRA file to merge into the UNet")
	f.StringVar(&o.data, "data", "assets/mini/images.parquet", "captioned images with the splits train and eval")
	f.StringVar(&o.sheet, "sheet", "", "also write a PNG sheet of the first prompts here")
	f.IntSliceVarP(&o.steps, "steps", "n", []int{32}, "step counts; a file's own where it says one")
	f.Float64SliceVarP(&o.guidance, "guidance", "g", []float64{0}, "classifier-free guidance scales, each measured at every step count; 0 = off")
	f.IntVar(&o.samples, "samples", 256, "images per row")
	f.IntVar(&o.batch, "batch", 32, "images per program call")
	f.IntVar(&o.bootstrap, "bootstrap", 400, "resamples behind an interval; 0 = no intervals")
	f.Uint64Var(&o.seed, "seed", 1, "seed of prompts and starting noise")
	f.Float64SliceVar(&o.captions, "captions", []float64{0.4, 0.3, 0.3}, "probabilities of fine, kind and coarse captions")
	return c
}

func (o evalOptions) config(p *pipeline.Pipeline) (*distill.Config, error) {
	if len(o.captions) != 3 || slices.Min(o.captions) < 0 || slices.Max(o.captions) <= 0 {
		return nil, usageErrorf("--captions wants three probabilities, fine, kind and coarse, not %v", o.captions)
	}
	if len(o.steps) == 0 || slices.Min(o.steps) < 1 || slices.Max(o.steps) > p.Schedule.T() {
		return nil, usageErrorf("--steps wants counts from 1 to %d, not %v", p.Schedule.T(), o.steps)
	}
	if len(o.guidance) == 0 || slices.Min(o.guidance) < 0 {
		return nil, usageErrorf("--guidance wants scales of 0 or more, not %v", o.guidance)
	}
	c := distill.Default()
	c.Model, c.Data.Source, c.Data.Resolution = o.model, o.data, p.UNet.SampleSize*p.Factor()
	c.Data.Captions = distill.Captions{Fine: o.captions[0], Kind: o.captions[1], Coarse: o.captions[2]}
	c.Eval = distill.Eval{Samples: o.samples, Batch: min(o.batch, o.samples), Steps: o.steps, Seed: o.seed, Bootstrap: o.bootstrap, SheetSamples: 16}
	return c, nil
}

func (a *app) eval(cmd *cobra.Command, o evalOptions) error {
	p, err := pipeline.Open(o.model)
	if err != nil {
		return err
	}
	if _, err := o.config(p); err != nil {
		return err
	}
	rt, err := a.openBackend(xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	specs, err := p.UNetSpecs(rt.Backend, nil)
	if err != nil {
		return err
	}
	w, err := p.LoadUNet(specs, o.unet, o.lora)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, note := range w.Notes {
		a.log.Warn(note)
	}
	if w.Steps > 0 {
		if !cmd.Flags().Changed("steps") {
			o.steps = []int{w.Steps}
		}
		if !cmd.Flags().Changed("guidance") {
			o.guidance = []float64{w.Guidance}
		}
	}
	c, err := o.config(p)
	if err != nil {
		return err
	}
	name, kind := w.Title, report.Full
	switch {
	case o.lora != "":
		kind = report.LoRA
	case w.Steps == 0:
		kind = report.Undistilled
	}
	if name == "" {
		name = p.Dir
	}
	model, err := w.Load(e, specs)
	if err != nil {
		return fmt.Errorf("%s/unet: %w", p.Dir, err)
	}
	s := eval.Spec{Engine: e, Pipeline: p, Config: c, Progress: a.evalProgress()}
	for _, g := range o.guidance {
		for _, n := range o.steps {
			s.Entries = append(s.Entries, eval.Entry{Model: name, Kind: kind, Steps: n, Guidance: g, Prediction: w.Prediction,
				Load: func() (*engine.Params, func(), error) { return model, func() {}, nil }})
		}
	}
	t, err := eval.Evaluate(cmd.Context(), s)
	if err != nil {
		return err
	}
	if o.sheet != "" {
		png, err := t.Sheet(nil)
		if err != nil {
			return err
		}
		if err := atomicfile.WriteBytes(o.sheet, png); err != nil {
			return err
		}
	}
	return a.writeTable(t)
}

// evalProgress logs each row when its last image is done.
func (a *app) evalProgress() func(eval.Progress) {
	return func(p eval.Progress) {
		switch {
		case p.Row == 0:
			a.log.Info("measuring "+p.Model, "images", p.Total)
		case p.Done == p.Total:
			a.log.Info(fmt.Sprintf("row %d of %d", p.Row, p.Rows), "model", p.Model, "steps", p.Steps, "calls", p.Calls, "images", p.Done)
		}
	}
}

// writeTable prints rows for people, or as JSON.
func (a *app) writeTable(t *eval.Table) error {
	type row struct {
		Model      string      `json:"model"`
		Steps      int         `json:"steps"`
		Calls      int         `json:"calls"`
		Kind       report.Kind `json:"kind"`
		Metric     string      `json:"metric"`
		Convention string      `json:"convention"`
		Value      float64     `json:"value"`
		Low        *float64    `json:"low"`
		High       *float64    `json:"high"`
		Samples    int         `json:"samples"`
	}
	if a.json {
		rows := make([]row, len(t.Rows))
		for i, r := range t.Rows {
			rows[i] = row{r.Model, r.Steps, r.Calls, r.Kind, r.Metric, r.Convention, r.Value, nil, nil, r.Samples}
			if r.HasInterval() {
				rows[i].Low, rows[i].High = &t.Rows[i].Low, &t.Rows[i].High
			}
		}
		return a.writeJSON(rows)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tKIND\tSTEPS\tCALLS\tMETRIC\tVALUE\tLOW\tHIGH\tSAMPLES")
	for _, r := range t.Rows {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s [%s]\t%.4g\t%s\t%s\t%d\n", r.Model, r.Kind, r.Steps, r.Calls, r.Metric, r.Convention, r.Value, bound(r.Low), bound(r.High), r.Samples)
	}
	return w.Flush()
}

func bound(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.4g", v)
}
