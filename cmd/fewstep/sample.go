package main

import (
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
		Use:     "sample",
		Short:   "Draw pictures from a model.",
		Example: "  fewstep sample --model assets/mini --steps 32 --guidance 4 --prompt \"cat face, noto style\" --out cat.png",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.sample(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "assets/mini", "diffusers directory")
	f.StringArrayVarP(&o.prompts, "prompt", "p", nil, "what to draw; repeat for several pictures")
	f.StringVar(&o.promptFile, "prompts", "", "text file with one prompt a line")
	f.StringVarP(&o.out, "out", "o", "samples.png", "PNG file: a sheet of all pictures")
	f.BoolVar(&o.each, "each", false, "also write every picture by itself, numbered, beside the sheet")
	f.IntVarP(&o.steps, "steps", "n", 32, "network calls per picture (twice that with guidance)")
	f.Float64VarP(&o.guidance, "guidance", "g", 0, "classifier-free guidance scale; 0 = off")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the starting noise")
	f.IntVar(&o.resolution, "resolution", 0, "side in pixels; 0 = the model's own")
	f.IntVar(&o.batch, "batch", 16, "pictures per program call")
	return c
}

func (a *app) sample(cmd *cobra.Command, o sampleOptions) error {
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
	p, err := pipeline.Open(o.model)
	if err != nil {
		return err
	}
	if o.resolution == 0 {
		o.resolution = p.UNet.SampleSize * p.Factor()
	}
	rt, err := a.openBackend(xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	enc, err := p.LoadEncoders(e, min(o.batch, len(o.prompts)), pipeline.TextPart, pipeline.VAEPart)
	if err != nil {
		return err
	}
	specs, err := p.UNetSpecs(rt.Backend, nil)
	if err != nil {
		return err
	}
	values, err := pipeline.Read(o.model, "unet")
	if err != nil {
		return err
	}
	model, err := e.Load(specs, values, nil)
	if err != nil {
		return fmt.Errorf("%s/unet: %w", o.model, err)
	}
	embeddings, err := enc.Text(o.prompts)
	if err != nil {
		return err
	}
	latents, err := sample.Latents(cmd.Context(), e, p, model, embeddings, sample.Options{Steps: o.steps, Guidance: o.guidance,
		Prediction: p.Prediction, Seed: o.seed, Resolution: o.resolution, Batch: min(o.batch, len(o.prompts))})
	if err != nil {
		return err
	}
	images, err := enc.Images(latents, o.resolution)
	if err != nil {
		return err
	}
	return a.writePictures(images, o)
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
