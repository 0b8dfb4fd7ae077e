package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/configs"
	"fewstep/engine"
	"fewstep/eval"
	"fewstep/eval/metric"
	"fewstep/eval/scheduler"
	"fewstep/internal/atomicfile"
	"fewstep/internal/xla"
	"fewstep/model/inception"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/rundir"
)

func init() { register(newEval) }

type evalOptions struct {
	model, unet, lora string
	sampler, compute  string
	devices           string
	rows, follow      string
	protocol          string
	captionFile       string
	reference         string
	referenceStats    []string
	saveStats         string
	convention        string
	sources           metric.Sources
	data, sheet       string
	out, images       string
	steps             []int
	guidance          []float64
	samples, batch    int
	each              int
	resolution        int
	bootstrap         int
	seed              uint64
	captions          []float64
	every             time.Duration
}

func newEval(a *app) *cobra.Command {
	var o evalOptions
	c := &cobra.Command{
		Use:   "eval",
		Short: "Measure models: Fréchet distances from real images, and CLIP score.",
		Long: "Measures models at one or more step counts, all by the same protocol, and writes a report of them with --out.\n\n" +
			"Protocols. mini: prompts are drawn from a captioned data set; the first row is the floor, held-out real images against\n" +
			"the others. coco10k: the first 10,000 images that captions_val2014.json names, by the order of its annotations, one\n" +
			"caption each, measured from those same images where --reference is their folder. captions: every caption of a JSON file like that, or of a parquet file with a caption column. Image i is\n" +
			"drawn from noise (seed, i), whatever the model, the batch or the device.\n\n" +
			"Conventions. mini-clip: features of the pipeline's own CLIP, not FID. The others measure by an Inception network and a CLIP\n" +
			"of your choice, treating images as papers do: " + conventionNames() + ".\n\n" + fetchHelp() + "\n\n" +
			"Models. Those of the flags, those of a rows file (name, model, unet, lora, images, run, steps, guidance, sampler, prediction,\n" +
			"kind), or with --follow those that a run exports, as they appear, until its ladder is done; the run's directory is only\n" +
			"read.\n\n" +
			"With --out a stopped evaluation continues by the same command; with --keep-images within a row too.",
		Example: "  fewstep eval --model assets/mini --steps 8,4,2,1 --guidance 0,3\n" +
			"  fewstep eval --unet runs/demo/exports/4step_unet.safetensors --out evals/4step\n" +
			"  fewstep eval --rows rows.yaml --protocol coco10k --captions-file captions_val2014.json --reference val2014 --out evals/coco\n" +
			"  fewstep eval --follow /shared/runs/demo --out evals/demo",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.eval(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "assets/mini", "diffusers directory, single file or hf:OWNER/NAME; for mini-clip with a clip folder")
	f.StringVar(&o.unet, "unet", "", "UNet state dict in place of the directory's, as in a run's exports folder")
	f.StringVar(&o.lora, "lora", "", "LoRA file to merge into the UNet")
	f.StringVar(&o.sampler, "sampler", "trained", "how the model is sampled: "+scheduler.Names())
	f.StringVar(&o.compute, "compute", "auto", "arithmetic of the networks that draw: "+computeUsage+"; those that measure compute in f32")
	f.StringVar(&o.devices, "devices", "1", "how many devices draw: a number, or all that there are; the images are the same")
	f.StringVar(&o.rows, "rows", "", "YAML file that names the models to measure, instead of --unet and --lora")
	f.StringVar(&o.follow, "follow", "", "measure what this run exports, as it appears, by the run's own settings")
	f.DurationVar(&o.every, "every", 30*time.Second, "how often to look for new models with --follow")
	f.StringVar(&o.protocol, "protocol", "mini", "mini, coco10k or captions")
	f.StringVar(&o.captionFile, "captions-file", "", "COCO's captions_val2014.json, or a parquet file with a caption column")
	f.StringVar(&o.reference, "reference", "", "real images for --protocol coco10k and captions: a folder, COCO's zip file, or whatever else 'data inspect' reads; none = no distances")
	f.StringSliceVar(&o.referenceStats, "reference-stats", nil, "statistics in place of the real images: an .npz of pytorch-fid or clean-fid, and another of patches")
	f.StringVar(&o.saveStats, "save-stats", "", "save statistics of the real images in this folder, whole.npz and patch.npz, for --reference-stats, pytorch-fid and clean-fid")
	f.StringVar(&o.convention, "convention", metric.Convention, "how images are measured: "+conventionNames())
	f.StringVar(&o.sources.Inception, "inception", "", "weights of the Inception network, a file or nsfwjs-inception once fetched; for every convention but "+metric.Convention)
	f.StringVar(&o.sources.CLIP, "clip", "", "folder of the CLIP that the scores are by, for the same; none = no score")
	f.StringVar(&o.sources.Tokenizer, "clip-tokenizer", "", "folder of its tokenizer, where it is another")
	f.StringVar(&o.data, "data", "assets/scenes/demo.scenes.json", "captioned images with the splits train and eval, for --protocol mini")
	f.StringVarP(&o.out, "out", "o", "", "folder for the report, metrics.csv, metrics.json and what a stopped evaluation continues from")
	f.StringVar(&o.images, "keep-images", "", "keep every image as a PNG in this folder")
	f.StringVar(&o.sheet, "sheet", "", "also write a PNG sheet of the first prompts here")
	f.IntSliceVarP(&o.steps, "steps", "n", []int{32}, "step counts; a file's own where it says one")
	f.Float64SliceVarP(&o.guidance, "guidance", "g", []float64{0}, "classifier-free guidance scales, each measured at every step count; 0 = off")
	f.IntVar(&o.samples, "samples", 256, "images per row; with --captions-file at most so many captions, if given")
	f.IntVar(&o.each, "per-caption", 1, "images of every caption, for --protocol captions: several give their diversity")
	f.IntVar(&o.batch, "batch", 32, "images per program call")
	f.IntVar(&o.resolution, "resolution", 0, "side of the images in pixels; 0 = the model's own")
	f.IntVar(&o.bootstrap, "bootstrap", 400, "resamples behind an interval; 0 = no intervals")
	f.Uint64Var(&o.seed, "seed", 1, "seed of prompts and starting noise")
	c.AddCommand(newAccept(a))
	f.Float64SliceVar(&o.captions, "captions", []float64{0.4, 0.3, 0.3}, "probabilities of fine, kind and coarse captions")
	return c
}

// conventionNames lists them for people.
func conventionNames() string {
	out := metric.Convention
	for _, s := range metric.Standards() {
		out += ", " + s.Name
	}
	return out
}

// fetchHelp says where the networks of the conventions come from.
func fetchHelp() string {
	out := "Networks. Only features of the FID network are called FID; other weights give the metric another name.\n"
	for _, r := range inception.Releases() {
		out += fmt.Sprintf("  %s\n", r.File)
		if r.SHA256 != "" {
			out += fmt.Sprintf("    SHA-256 %s\n", r.SHA256)
		}
		out += fmt.Sprintf("    %s\n", r.Fetch)
	}
	for _, s := range metric.Standards() {
		if s.Score == nil || s.Score.Fetch == "" {
			continue
		}
		out += fmt.Sprintf("  CLIP of %s: %s\n", s.Name, s.Score.Model)
		if s.Score.SHA256 != "" {
			out += fmt.Sprintf("    SHA-256 %s\n", s.Score.SHA256)
		}
		out += fmt.Sprintf("    %s\n", s.Score.Fetch)
	}
	return strings.TrimRight(out, "\n")
}

// check refuses flags that exclude each other.
func (o evalOptions) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	switch {
	case o.rows != "" && (o.unet != "" || o.lora != "" || given("steps") || given("guidance")):
		return usageErrorf("--rows names the models and how they are sampled: leave --unet, --lora, --steps and --guidance out")
	case o.follow != "" && (o.rows != "" || o.unet != "" || o.lora != "" || given("protocol") || given("steps") || given("guidance") || given("samples") || given("seed")):
		return usageErrorf("--follow measures a run's models by the run's own settings: of the models and the protocol, give --model and --data alone, where the run's paths are others on this machine")
	case o.follow != "" && o.out == "":
		return withHint(usageErrorf("--follow needs a folder for its results"), "give --out")
	case o.protocol != "mini" && o.captionFile == "":
		return withHint(usageErrorf("--protocol %s needs a file of captions", o.protocol), "give --captions-file")
	case o.protocol == "mini" && (o.captionFile != "" || o.reference != "" || len(o.referenceStats) > 0):
		return withHint(usageErrorf("--captions-file, --reference and --reference-stats belong to another protocol than mini"), "give --protocol coco10k or captions")
	case o.each < 1 || o.each > 1 && o.protocol != "captions":
		return usageErrorf("--per-caption %d: give 1 or more, and more than one for --protocol captions alone; coco10k is one image of every caption", o.each)
	case (o.follow != "" || o.rows != "") && given("sampler"):
		return usageErrorf("--sampler is of the model of the flags: in a rows file it stands in the row, and a run's models have their own")
	case o.reference != "" && len(o.referenceStats) > 0:
		return usageErrorf("--reference and --reference-stats exclude each other")
	case o.saveStats != "" && (o.convention == metric.Convention || len(o.referenceStats) > 0 || o.protocol != "mini" && o.reference == ""):
		return withHint(usageErrorf("--save-stats saves Inception statistics of the real images"), "give --convention one of the others than %s, and --reference", metric.Convention)
	case o.convention == metric.Convention && (o.sources != metric.Sources{} || len(o.referenceStats) > 0):
		return withHint(usageErrorf("convention %s measures by the pipeline's own CLIP, from images", metric.Convention), "give --convention one of %s", conventionNames())
	case o.convention != metric.Convention && o.sources.Inception == "":
		return withHint(usageErrorf("convention %s needs the weights of an Inception network", o.convention), "give --inception; 'fewstep eval --help' says where they come from")
	case o.every <= 0:
		return usageErrorf("--every wants a positive time, not %v", o.every)
	}
	return checkCompute(o.compute)
}

func (o evalOptions) config(p *pipeline.Pipeline) (*configs.Recipe, error) {
	if len(o.captions) != 3 || slices.Min(o.captions) < 0 || slices.Max(o.captions) <= 0 {
		return nil, usageErrorf("--captions wants three probabilities, fine, kind and coarse, not %v", o.captions)
	}
	if len(o.steps) == 0 || slices.Min(o.steps) < 1 || slices.Max(o.steps) > p.Schedule.T() {
		return nil, usageErrorf("--steps wants counts from 1 to %d, not %v", p.Schedule.T(), o.steps)
	}
	if _, err := scheduler.Parse(o.sampler); err != nil {
		return nil, withCode(exitUsage, err)
	}
	if len(o.guidance) == 0 || slices.Min(o.guidance) < 0 {
		return nil, usageErrorf("--guidance wants scales of 0 or more, not %v", o.guidance)
	}
	if o.resolution == 0 {
		o.resolution = p.UNet.SampleSize * p.Factor()
	}
	if r := p.Factor() << (p.UNet.Levels() - 1); o.resolution < r || o.resolution%r != 0 {
		return nil, usageErrorf("--resolution %d is not a multiple of %d", o.resolution, r)
	}
	c := configs.Default()
	c.Model, c.Data.Source, c.Data.Resolution = o.model, o.data, o.resolution
	c.Data.Captions = configs.Captions{Fine: o.captions[0], Kind: o.captions[1], Coarse: o.captions[2]}
	c.Eval = configs.Eval{Samples: o.samples, Batch: max(1, min(o.batch, o.samples)), Steps: o.steps, Seed: o.seed, Bootstrap: o.bootstrap, SheetSamples: 16}
	return c, nil
}

func (a *app) eval(cmd *cobra.Command, o evalOptions) error {
	if err := o.check(cmd); err != nil {
		return err
	}
	if _, err := virtualDevices(o.devices); err != nil {
		return err
	}
	if err := a.localAll(cmd.Context(), &o.model, &o.unet, &o.lora); err != nil {
		return err
	}
	var err error
	s := eval.Spec{Progress: a.evalProgress(), Warn: func(text string) { a.log.Warn(text) }, Images: o.images,
		Convention: o.convention, Sources: o.sources, SaveStats: o.saveStats}
	if !a.quiet {
		s.Metric = func(name string) { a.log.Info("computing " + name) }
	}
	var followed *rundir.Dir
	if o.follow != "" {
		if followed, s.Config, err = eval.ViewRun(o.follow); err != nil {
			return err
		}
		defer followed.Close()
		if cmd.Flags().Changed("data") {
			s.Config.Data.Source = o.data
		}
		if !cmd.Flags().Changed("model") {
			o.model = s.Config.ModelPath()
		}
	}
	if s.Pipeline, err = pipeline.Open(o.model); err != nil {
		return err
	}
	if followed == nil {
		if s.Config, err = o.config(s.Pipeline); err != nil {
			return err
		}
	}
	if o.captionFile != "" {
		limit := 0
		if cmd.Flags().Changed("samples") {
			limit = o.samples
		}
		if s.Captions, err = eval.ReadCaptions(o.protocol, o.captionFile, limit); err != nil {
			return err
		}
		if o.each > 1 {
			s.Captions.Repeat(o.each)
		}
		s.Reference, s.ReferenceStats = o.reference, o.referenceStats
		s.Config.Eval.Batch = max(1, min(o.batch, len(s.Captions.Texts)))
	}
	var specs []eval.RowSpec
	if o.rows != "" {
		if specs, err = eval.ReadRows(o.rows); err != nil {
			return withCode(exitUsage, err)
		}
		for i := range specs {
			if err := a.localAll(cmd.Context(), &specs[i].Model, &specs[i].UNet, &specs[i].LoRA); err != nil {
				return err
			}
		}
	}
	rt, devices, err := a.openDevices(o.devices, xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	s.Engine = engine.New(rt.Backend, dtypes.Float32, nn.Network)
	s.Engine.Context = cmd.Context()
	if o.out != "" {
		s.KeepIn(o.out)
	}
	switch {
	case followed != nil:
	case o.rows != "":
		s.Entries, err = s.Rows(specs)
	default:
		s.Entries, err = o.entries(cmd, &s)
	}
	if err == nil {
		s.Drawers, err = drawersOf(cmd.Context(), rt, devices, o.compute, &s)
	}
	if err != nil {
		return err
	}
	if followed != nil {
		return a.follow(cmd, s, followed, o)
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
	if o.out != "" {
		if err := eval.WriteFolder(o.out, t, evalReport(cmd, s.Entries)); err != nil {
			return err
		}
		a.log.Info("report", "file", filepath.Join(o.out, "index.html"))
	}
	return a.writeTable(t)
}

// entries are the model of the flags at every step count and guidance.
func (o evalOptions) entries(cmd *cobra.Command, s *eval.Spec) ([]eval.Entry, error) {
	row := eval.RowSpec{UNet: o.unet, LoRA: o.lora, Sampler: o.sampler}
	given := cmd.Flags().Changed
	if given("steps") || o.unet == "" && o.lora == "" {
		row.Steps = o.steps
	}
	guidance := []*float64{nil}
	if given("guidance") {
		guidance = nil
		for _, g := range o.guidance {
			guidance = append(guidance, &g)
		}
	}
	var specs []eval.RowSpec
	for _, row.Guidance = range guidance {
		specs = append(specs, row)
	}
	return s.Rows(specs)
}
