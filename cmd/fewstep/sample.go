package main

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/internal/atomicfile"
	"fewstep/internal/text"
	"fewstep/internal/xla"
	"fewstep/model/clip"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/monitor"
)

func init() { register(newSample) }

type sampleOptions struct {
	model, out    string
	unet, lora    string
	config        string
	prompts       []string
	promptFile    string
	negative      string
	steps         int
	guidance      float64
	sampler       string
	seed          uint64
	noise         string
	saveNoise     string
	width, height int
	conditions    conditionFlags
	batch         int
	tile          int
	compute       string
	each          bool
}

func newSample(a *app) *cobra.Command {
	var o sampleOptions
	c := &cobra.Command{
		Use:   "sample",
		Short: "Draw pictures from a model.",
		Long: "Draws pictures from a model: a diffusers directory or a single file, with another UNet or a LoRA over it if one is named.\n" +
			"Files that fewstep exported say how many steps they are made for, with which guidance, and what they predict.\n\n" +
			"Samplers: euler is diffusers' EulerDiscreteScheduler with trailing spacing, trained starts at full noise as the\n" +
			"students are trained and as ComfyUI does, ddim is diffusers' DDIMScheduler with trailing spacing.",
		Example: "  fewstep sample --model assets/mini --steps 32 --guidance 3 --prompt \"a cat on yellow\" --out cat.png\n" +
			"  fewstep sample --lora runs/demo/exports/8step_lora.safetensors --prompt \"a cat on yellow\"",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sample(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "assets/mini", "diffusers directory, single file as ComfyUI loads it, or hf:OWNER/NAME")
	f.StringVar(&o.config, "config", "", configUsage)
	f.StringVar(&o.unet, "unet", "", "UNet state dict in place of the directory's, as in a run's exports folder")
	f.StringVar(&o.lora, "lora", "", "LoRA file, or PEFT's folder of one, to merge into UNet and text encoders")
	f.StringArrayVarP(&o.prompts, "prompt", "p", nil, "what to draw; repeat for several pictures")
	f.StringVar(&o.promptFile, "prompts", "", "text file with one prompt a line")
	f.StringVar(&o.negative, "negative", "", "what guidance leads away from; without it the model's own empty prompt")
	f.StringVarP(&o.out, "out", "o", "samples.png", "PNG file: a sheet of all pictures")
	f.BoolVar(&o.each, "each", false, "also write every picture by itself, numbered, beside the sheet")
	f.IntVarP(&o.steps, "steps", "n", 32, "network calls per picture, twice that with guidance; a file's own where it says them")
	f.Float64VarP(&o.guidance, "guidance", "g", 0, "classifier-free guidance scale; 0 or 1 = off")
	f.StringVar(&o.sampler, "sampler", string(scheduler.Euler), "how the model is sampled: "+scheduler.Names())
	f.Uint64Var(&o.seed, "seed", 1, "seed of the starting noise")
	f.StringVar(&o.noise, "latents", "", "safetensors file with the starting noise: latents [N, C, h, w], as diffusers' pipelines take it")
	f.StringVar(&o.saveNoise, "save-latents", "", "write the starting noise to such a file")
	f.IntVar(&o.width, "width", 0, "in pixels; 0 = the model's own")
	f.IntVar(&o.height, "height", 0, "in pixels; 0 = the model's own")
	f.IntVar(&o.batch, "batch", 16, "pictures per program call")
	f.IntVar(&o.tile, "tile", 0, "decode in overlapping tiles of this side in pixels, as 512, where memory is short; 0 = whole")
	f.StringVar(&o.compute, "compute", "auto", "arithmetic of the networks: "+computeUsage)
	o.conditions.register(c)
	return c
}

func (a *app) sample(cmd *cobra.Command, o sampleOptions) error {
	if err := o.readPrompts(); err != nil {
		return err
	}
	sampler, err := scheduler.Parse(o.sampler)
	if err != nil {
		return usageErrorf("%v", err)
	}
	if err := checkCompute(o.compute); err != nil {
		return err
	}
	if err := a.localAll(cmd.Context(), &o.model, &o.unet, &o.lora); err != nil {
		return err
	}
	p, err := pipeline.OpenWith(o.model, o.config)
	if err != nil {
		return err
	}
	size, err := a.sizeOf(p, o)
	if err != nil {
		return err
	}
	if o.tile != 0 {
		if _, err := p.VAE.DecodeTiles(o.tile); err != nil {
			return usageErrorf("--tile: %v", err)
		}
	}
	s := sample.Options{Steps: o.steps, Guidance: o.guidance, Seed: o.seed, Size: size,
		Batch: max(1, min(o.batch, len(o.prompts)))}
	if s.TimeIDs, s.NegativeID, err = o.conditions.timeIDs(size); err != nil {
		return err
	}
	if o.noise != "" {
		if s.Noise, err = sample.ReadNoise(o.noise, p, size, len(o.prompts)); err != nil {
			return err
		}
	}
	rt, err := a.openBackend(xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	specs, err := p.UNetSpecs(rt.Backend, nil)
	if err != nil {
		return err
	}
	e := drawer(rt, o.compute, specs)
	e.Context = cmd.Context()
	w, err := p.LoadUNet(specs, o.unet, o.lora)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, note := range append(p.Notes, w.Notes...) {
		a.log.Warn(note)
	}
	a.samplerOf(cmd, w, &s)
	if s.Steps < 1 || s.Steps > p.Schedule.T() {
		return usageErrorf("--steps is %d; it must be 1 to %d", s.Steps, p.Schedule.T())
	}
	if w.Sampler != "" && !cmd.Flags().Changed("sampler") {
		sampler = scheduler.Name(w.Sampler)
	}
	if s.Plan, err = sampler.PlanBy(p.Scheduler, w.Schedule, s.Prediction, s.Steps, w.Original); err != nil {
		return withCode(exitUsage, err)
	}
	if !a.quiet {
		show := monitor.NewProgress(a.stderr, monitor.StyleAuto, 2*time.Second)
		defer show.Close()
		s.Progress = func(done, total int) {
			_ = show.Update(monitor.Record{Stage: "sample", Phase: "steps", Samples: int64(done), Total: int64(total), Position: int64(done), RunTotal: int64(total)})
		}
	}
	a.warnAboutPrompts(p, o, s)
	d := &drawing{e: e, p: p, o: o, s: s, negative: cmd.Flags().Changed("negative") || !p.ZeroEmpty}
	images, err := d.draw(cmd.Context(), specs, w)
	if err != nil {
		return err
	}
	if o.saveNoise != "" {
		if err := saveNoise(o.saveNoise, p, s, len(o.prompts)); err != nil {
			return err
		}
	}
	return a.writePictures(images, size, o)
}

func (o *sampleOptions) readPrompts() error {
	if o.promptFile != "" {
		content, err := text.ReadFile(o.promptFile)
		if err != nil {
			return err
		}
		for line := range strings.Lines(content) {
			if line = strings.TrimSpace(line); line != "" {
				o.prompts = append(o.prompts, line)
			}
		}
	}
	if len(o.prompts) == 0 {
		return withHint(usageErrorf("nothing to draw"), "give --prompt or --prompts")
	}
	return nil
}

// warnAboutPrompts says what of the prompts, and of what else the model is told, will have no effect.
func (a *app) warnAboutPrompts(p *pipeline.Pipeline, o sampleOptions, s sample.Options) {
	if o.conditions.given() && !slices.ContainsFunc(p.Conditions(), func(c family.Condition) bool { return c.Name == family.Sizes }) {
		a.log.Warn("micro-conditions have no effect: a model of " + p.Kind.Name + " is not told sizes")
	}
	if o.negative != "" && s.Guidance <= 1 {
		a.log.Warn("--negative has no effect without --guidance")
	}
	for _, text := range append(slices.Clone(o.prompts), o.negative) {
		if cut, is := clip.CutOf(p.Tokenizer, text); is {
			a.log.Warn(fmt.Sprintf("a prompt of %d tokens is cut to %d: %q", cut.Tokens, p.Tokenizer[0].MaxLength, text), "unseen", cut.Unseen)
		}
	}
}

// sizeOf is the wanted size, with a warning where the model was not trained on it.
func (a *app) sizeOf(p *pipeline.Pipeline, o sampleOptions) (pipeline.Size, error) {
	size := p.Native()
	if o.width != 0 {
		size.Width = o.width
	}
	if o.height != 0 {
		size.Height = o.height
	}
	if err := p.CheckSize(size); err != nil {
		return size, usageErrorf("%v", err)
	}
	if native := p.Native(); !sample.TrainedOn(native, size) {
		a.log.Warn(fmt.Sprintf("a model of %v was not trained on pictures of %v", native, size))
	}
	return size, nil
}

// samplerOf takes steps and guidance from what the weights say about themselves, where the command line is silent.
func (a *app) samplerOf(cmd *cobra.Command, w *pipeline.Weights, s *sample.Options) {
	s.Prediction = w.Prediction
	if w.Steps == 0 {
		return
	}
	title := w.Title
	if title == "" {
		title = "the weights"
	}
	if !cmd.Flags().Changed("steps") {
		s.Steps = w.Steps
	} else if s.Steps != w.Steps {
		a.log.Warn(fmt.Sprintf("%s: made for %d steps, and --steps says %d", title, w.Steps, s.Steps))
	}
	if !cmd.Flags().Changed("guidance") {
		s.Guidance = w.Guidance
	}
	a.log.Info("sampler of "+title, "steps", s.Steps, "guidance", s.Guidance, "predicts", w.Prediction)
}

// drawing is what the networks need to know.
type drawing struct {
	e        *engine.Engine
	p        *pipeline.Pipeline
	o        sampleOptions
	s        sample.Options
	negative bool // the negative prompt is encoded, even if it is empty; else it is zero embeddings
}

// draw makes one picture [H·W·3] per prompt. Text encoders, UNet and VAE are on the device one after the other.
func (d *drawing) draw(ctx context.Context, specs []nn.Spec, w *pipeline.Weights) ([][]float32, error) {
	embeddings, err := d.text(w)
	if err != nil {
		return nil, err
	}
	model, err := d.e.LoadFunc(specs, w.Value, nil)
	if err != nil {
		return nil, fmt.Errorf("%s/unet: %w", d.o.model, err)
	}
	latents, err := sample.Latents(ctx, d.e, d.p, model, embeddings, d.s)
	model.FreeAll()
	if err != nil {
		return nil, err
	}
	enc, err := encoder.Load(d.p, d.e, d.s.Batch, encoder.VAEPart)
	if err != nil {
		return nil, err
	}
	defer enc.Free()
	enc.Tile = d.o.tile
	return enc.Images(latents, d.s.Size)
}

// text encodes the prompts, and the negative one into the sampler's options.
func (d *drawing) text(w *pipeline.Weights) ([]family.Conditions, error) {
	enc, err := encoder.LoadText(d.p, w, d.e, d.s.Batch)
	if err != nil {
		return nil, err
	}
	defer enc.Free()
	if d.s.Guidance > 1 && d.negative {
		away, err := enc.Text([]string{d.o.negative})
		if err != nil {
			return nil, err
		}
		d.s.Negative = away[0]
	}
	return enc.Text(d.o.prompts)
}

func saveNoise(path string, p *pipeline.Pipeline, s sample.Options, n int) error {
	noise := s.Noise
	if noise == nil {
		for i := range n {
			noise = append(noise, sample.Noise(p, s.Seed, int64(i), s.Size))
		}
	}
	return sample.WriteNoise(path, p, s.Size, noise)
}

func (a *app) writePictures(images [][]float32, size pipeline.Size, o sampleOptions) error {
	const columns = 4
	var rows [][]image.Image
	var labels []string
	written := struct {
		Sheet    string   `json:"sheet"`
		Pictures []string `json:"pictures,omitempty"` // with --each
	}{Sheet: o.out}
	for i, v := range images {
		if i%columns == 0 {
			rows, labels = append(rows, nil), append(labels, "")
		}
		img, r := sample.Image(v, size), len(rows)-1
		rows[r] = append(rows[r], img)
		labels[r] += fmt.Sprintf("%d. %s. ", i%columns+1, o.prompts[i])
		if o.each {
			name := fmt.Sprintf("%s-%04d.png", strings.TrimSuffix(o.out, filepath.Ext(o.out)), i)
			if err := atomicfile.Write(name, func(w io.Writer) error { return png.Encode(w, img) }); err != nil {
				return err
			}
			written.Pictures = append(written.Pictures, name)
		}
	}
	sheet, err := report.ComposeSheet(rows, labels, nil)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(o.out, sheet); err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(written)
	}
	for _, name := range append([]string{written.Sheet}, written.Pictures...) {
		fmt.Fprintln(a.stdout, name)
	}
	return nil
}
