package main

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/engine"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/internal/atomicfile"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
)

func init() { register(newSample) }

type sampleOptions struct {
	model, out string
	unet, lora string
	tokenizer  string
	prompts    []string
	promptFile string
	steps      int
	guidance   float64
	seed       uint64
	resolution int
	batch      int
	each       bool
}

func newSample(a *app) *cobra.Command {
	var o sampleOptions
	c := &cobra.Command{
		Use:   "sample",
		Short: "Draw pictures from a model.",
		Long: "Draws pictures from a model: a diffusers directory or a single file, with another UNet or a LoRA over it if one is named.\n" +
			"Files that fewstep exported say how many steps they are made for, with which guidance, and what they predict.",
		Example: "  fewstep sample --model assets/mini --steps 32 --guidance 4 --prompt \"cat face, noto style\" --out cat.png\n" +
			"  fewstep sample --lora runs/demo/exports/8step_lora.safetensors --prompt \"cat face, noto style\"",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sample(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "assets/mini", "diffusers directory, single file as ComfyUI loads it, or hf:OWNER/NAME")
	f.StringVar(&o.tokenizer, "tokenizer", "", "folder with tokenizer and tokenizer_2, for a single file whose vocabulary is not OpenAI's")
	f.StringVar(&o.unet, "unet", "", "UNet state dict in place of the directory's, as in a run's exports folder")
	f.StringVar(&o.lora, "lora", "", "LoRA file to merge into the UNet")
	f.StringArrayVarP(&o.prompts, "prompt", "p", nil, "what to draw; repeat for several pictures")
	f.StringVar(&o.promptFile, "prompts", "", "text file with one prompt a line")
	f.StringVarP(&o.out, "out", "o", "samples.png", "PNG file: a sheet of all pictures")
	f.BoolVar(&o.each, "each", false, "also write every picture by itself, numbered, beside the sheet")
	f.IntVarP(&o.steps, "steps", "n", 32, "network calls per picture, twice that with guidance; a file's own where it says them")
	f.Float64VarP(&o.guidance, "guidance", "g", 0, "classifier-free guidance scale; 0 = off")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the starting noise")
	f.IntVar(&o.resolution, "resolution", 0, "side in pixels; 0 = the model's own")
	f.IntVar(&o.batch, "batch", 16, "pictures per program call")
	return c
}

func (a *app) sample(cmd *cobra.Command, o sampleOptions) error {
	if err := o.readPrompts(); err != nil {
		return err
	}
	if err := a.localAll(cmd.Context(), &o.model, &o.unet, &o.lora); err != nil {
		return err
	}
	p, err := pipeline.OpenWith(o.model, o.tokenizer)
	if err != nil {
		return err
	}
	if o.resolution == 0 {
		o.resolution = p.UNet.SampleSize * p.Factor()
	}
	if r := p.Factor() << (len(p.UNet.BlockOutChannels) - 1); o.resolution < r || o.resolution%r != 0 {
		return usageErrorf("resolution %d is not a multiple of %d", o.resolution, r)
	}
	o.batch = max(1, min(o.batch, len(o.prompts)))
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
	a.samplerOf(cmd, w, &o)
	images, err := draw(cmd.Context(), e, p, specs, w, o)
	if err != nil {
		return err
	}
	return a.writePictures(images, o)
}

func (o *sampleOptions) readPrompts() error {
	if o.promptFile != "" {
		raw, err := os.ReadFile(o.promptFile)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(raw)) {
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

// samplerOf takes steps and guidance from what the weights say about themselves, where the command line is silent.
func (a *app) samplerOf(cmd *cobra.Command, w *pipeline.Weights, o *sampleOptions) {
	if w.Steps == 0 {
		return
	}
	title := w.Title
	if title == "" {
		title = "the weights"
	}
	if !cmd.Flags().Changed("steps") {
		o.steps = w.Steps
	} else if o.steps != w.Steps {
		a.log.Warn(fmt.Sprintf("%s: made for %d steps, and --steps says %d", title, w.Steps, o.steps))
	}
	if !cmd.Flags().Changed("guidance") {
		o.guidance = w.Guidance
	}
	a.log.Info("sampler of "+title, "steps", o.steps, "guidance", o.guidance, "predicts", w.Prediction)
}

// draw makes one picture [S·S·3] per prompt.
func draw(ctx context.Context, e *engine.Engine, p *pipeline.Pipeline, specs []nn.Spec, w *pipeline.Weights, o sampleOptions) ([][]float32, error) {
	model, err := w.Load(e, specs)
	if err != nil {
		return nil, fmt.Errorf("%s/unet: %w", o.model, err)
	}
	enc, err := p.LoadEncoders(e, o.batch, pipeline.TextPart, pipeline.VAEPart)
	if err != nil {
		return nil, err
	}
	embeddings, err := enc.Text(o.prompts)
	if err != nil {
		return nil, err
	}
	latents, err := sample.Latents(ctx, e, p, model, embeddings, sample.Options{Steps: o.steps, Guidance: o.guidance,
		Prediction: w.Prediction, Seed: o.seed, Resolution: o.resolution, Batch: o.batch})
	if err != nil {
		return nil, err
	}
	return enc.Images(latents, o.resolution)
}

func (a *app) writePictures(images [][]float32, o sampleOptions) error {
	const columns = 4
	var rows [][]image.Image
	var labels []string
	for i, v := range images {
		if i%columns == 0 {
			rows, labels = append(rows, nil), append(labels, "")
		}
		img, r := sample.Image(v, o.resolution), len(rows)-1
		rows[r] = append(rows[r], img)
		labels[r] += fmt.Sprintf("%d. %s. ", i%columns+1, o.prompts[i])
		if o.each {
			name := fmt.Sprintf("%s-%04d.png", strings.TrimSuffix(o.out, filepath.Ext(o.out)), i)
			if err := atomicfile.Write(name, func(w io.Writer) error { return png.Encode(w, img) }); err != nil {
				return err
			}
		}
	}
	sheet, err := report.ComposeSheet(rows, labels, nil)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(o.out, sheet); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, o.out)
	return nil
}
