package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/encoded"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/internal/xla"
	"fewstep/model/clip"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/monitor"
)

type encodeOptions struct {
	encoded.Settings
	model    string
	recipe   string
	data     configs.Data
	text     float64 // GiB
	bare     time.Duration
	devices  string
	launched bool // rank and ranks are what a launcher said
}

func newDataEncode(a *app) *cobra.Command {
	o := encodeOptions{data: configs.Default().Data}
	c := &cobra.Command{
		Use:   "encode SOURCE --model MODEL --out DIR",
		Short: "Encode a data set once, for any number of runs.",
		Long: "Encodes a data set once, for any number of runs.\n\n" +
			"It writes latents and text embeddings as safetensors of bf16 to DIR, which then is a source for data.source. What is\n" +
			"there already is not made again: after a kill the same command continues, and after a change of captions, images or\n" +
			"model it makes what has changed. --devices share the work, and so do the processes of a launcher (Slurm, torchrun,\n" +
			"SkyPilot, OpenMPI) or those of --rank and --ranks; the bytes are the same for any number of them. With --recipe the model, the resolution, the buckets, the posterior and the\n" +
			"tiles are the recipe's. The document of package data/encoded describes the files.\n\n" +
			"It tells how long the device waited for images. --bare measures before that how fast the device encodes when it never\n" +
			"waits, with the source's first images again and again, and tells the share of that speed that was reached.\n\n" + sourcesHelp,
		Example: "  fewstep data encode kept.parquet --model sdxl/ --out encoded/ --resolution 1024\n" +
			"  fewstep data encode kept.parquet --recipe recipe.yaml --out encoded/\n" +
			"  fewstep run recipe.yaml --set data.source=encoded/ --dir runs/1",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.recipe != "" {
				for _, name := range []string{"model", "resolution", "tile", "max-bad"} {
					if cmd.Flags().Changed(name) {
						return usageErrorf("--%s is the recipe's; change it there", name)
					}
				}
				c, err := a.recipe(o.recipe, "data.source="+args[0])
				if err != nil {
					return err
				}
				o.model, o.data = c.ModelPath(), c.Data
			}
			if !cmd.Flags().Changed("rank") && !cmd.Flags().Changed("ranks") {
				place, err := cluster.Detect(cluster.Given{}, os.Getenv)
				if err != nil {
					return err
				}
				o.Rank, o.Ranks, o.launched = place.Rank, max(place.Nodes, 1), place.Nodes > 1
			}
			switch {
			case o.Dir == "" || o.model == "":
				return withHint(usageErrorf("nothing to encode with, or to write to"), "give --model (or --recipe) and --out")
			case o.data.Resolution < 8 || o.data.Resolution%8 != 0:
				return usageErrorf("--resolution is %d; it must be a multiple of 8", o.data.Resolution)
			case o.Ranks < 1 || o.Rank < 0 || o.Rank >= o.Ranks:
				return usageErrorf("--rank is %d of --ranks %d; it must be from 0 to one less", o.Rank, o.Ranks)
			case o.Batch < 1:
				return usageErrorf("--batch is %d; it must be at least 1", o.Batch)
			}
			if err := a.localAll(cmd.Context(), &o.model); err != nil {
				return err
			}
			o.Source = args[0]
			return a.encodeData(cmd, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "", "model whose VAE and text encoders are used: a diffusers directory or a single file")
	f.StringVar(&o.Dir, "out", "", "folder of the encodings")
	f.StringVar(&o.recipe, "recipe", "", "encode as this recipe trains")
	f.IntVar(&o.data.Resolution, "resolution", 1024, "side of the square images in pixels")
	f.IntVar(&o.data.VAETile, "tile", 0, "encode in overlapping tiles of this side in pixels, as 512, where memory is short; 0 = whole")
	f.IntVar(&o.Batch, "batch", 16, "images decoded and encoded at a time")
	f.IntVar(&o.data.MaxBad, "max-bad", 1000, "images that cannot be decoded before it stops")
	f.Float64Var(&o.text, "text", 64, "encode captions if that takes at most so many GiB; larger sets' captions are encoded by each run; 0 = never")
	f.DurationVar(&o.bare, "bare", 0, "measure for so long, before, how fast the device encodes when it never waits")
	f.StringVar(&o.devices, "devices", "1", "how many devices of this process share the work: a number, or all; on the CPU virtual ones are made")
	f.IntVar(&o.Rank, "rank", 0, "which of the processes this is, from 0 on; left out = as a launcher says")
	f.IntVar(&o.Ranks, "ranks", 1, "processes that share the work; left out = as a launcher says")
	return c
}

// mostCounted are the rows, from the first on, whose captions' tokens are counted.
const mostCounted = 100_000

func (a *app) encodeData(cmd *cobra.Command, o encodeOptions) error {
	address := o.Source
	if !strings.Contains(address, "://") {
		var err error
		if o.Source, err = filepath.Abs(address); err != nil {
			return err
		}
	}
	set, err := data.Open(cmd.Context(), address, data.Options{Unchecked: true, MaxBad: o.data.MaxBad, Indexing: monitor.LogProgress(a.log, "indexing", "shards", 0)})
	if err != nil {
		return err
	}
	defer set.Close()
	for _, s := range set.Skipped() {
		a.log.Warn("left out of the source", "what", s.String())
	}
	p, err := pipeline.Open(o.model)
	if err != nil {
		return err
	}
	rt, devices, err := a.openDevices(o.devices, xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	group, err := engine.NewGroup(engine.New(rt.Backend, dtypes.Float32, nn.Network), devices, dtypes.Float32, nil)
	if err != nil {
		return err
	}
	var each []encoded.Settings // of each device
	for i, e := range group.Engines() {
		e.Context = cmd.Context()
		s, err := train.Preparing(cmd.Context(), p, o.data, oneAtATime(p, e, o.Batch))
		if err != nil {
			return err
		}
		s.Dir, s.Source, s.Batch, s.TextLimit = o.Dir, o.Source, o.Batch, int64(o.text*(1<<30))
		s.Rank, s.Ranks = o.Rank*devices+i, o.Ranks*devices
		each = append(each, s)
	}
	told := map[string]func(done, total int){}
	each[0].Progress = func(what string, done, total int) {
		if told[what] == nil { // what is there before the first shard that is made takes no time
			told[what] = monitor.LogProgress(a.log, "encoding", what, done-1)
		}
		told[what](done, total)
	}
	var bare float64
	if o.bare > 0 {
		if bare, err = encoded.Bare(cmd.Context(), set, each[0], o.bare); err != nil {
			return hintAtMemory(err)
		}
		bare *= float64(devices)
	}
	r, err := encoded.Together(cmd.Context(), set, each)
	if err == nil && o.launched && o.Rank == 0 && r.Unfinished {
		a.log.Info("waiting for the shards of other processes", "shards", r.Missing)
		r, err = encoded.Await(cmd.Context(), set, each[0], r, 10*time.Minute)
	}
	if err != nil {
		return hintAtMemory(err)
	}
	r.Bare = bare
	cuts := clip.CountCuts(p.Tokenizer, min(set.Len(), mostCounted), func(i int) (string, []string) {
		row := set.Row(i)
		return row.Key, append([]string{row.Caption}, row.Also...)
	}, monitor.LogProgress(a.log, "counting the tokens of captions", "rows", 0))
	r.Cuts = &cuts
	if a.json {
		return a.writeJSON(r)
	}
	w := &lines{to: a.stdout}
	w.printf("%s: %d rows of %s\n  shards      %d made, %d there before", o.Dir, r.Rows, address, r.Made, r.Present)
	if r.Missing > 0 {
		w.printf(", %d left to other ranks: run it once more when they are done", r.Missing)
	}
	w.printf("\n  bad images  %d\n", r.Bad)
	if r.Enlarged > 0 {
		w.printf("  enlarged    %d images are smaller than the shape that they were made, as %s; 'data filter' or data.small leave them out\n", r.Enlarged, r.Small)
	}
	if r.Text {
		w.printf("  text        %s\n", bytesText(r.TextBytes))
	} else {
		w.printf("  text        not encoded (%s; --text): each run encodes its captions\n", bytesText(r.TextBytes))
	}
	w.cuts(cuts)
	if r.Images > 0 {
		w.printf("  speed       %.1f images/s", r.Speed())
		if bare > 0 {
			w.printf(", %.1f %% of the device's bare %.1f", 100*r.Speed()/bare, bare)
		}
		w.printf("\n")
	}
	if total := r.Encoding + r.Waiting; r.Made > 0 && total > 0 {
		w.printf("  device      encoded for %s, waited for images %s (%.1f %%)\n", r.Encoding.Round(time.Millisecond), r.Waiting.Round(time.Millisecond), 100*float64(r.Waiting)/float64(total))
	}
	return w.err
}

// oneAtATime loads a part of a pipeline's encoders onto a device, and gives the other part's memory back.
func oneAtATime(p *pipeline.Pipeline, e *engine.Engine, batch int) func(part string) (*encoder.Encoders, error) {
	loaded := map[string]*encoder.Encoders{}
	return func(part string) (*encoder.Encoders, error) {
		if enc := loaded[part]; enc != nil {
			return enc, nil
		}
		for _, enc := range loaded {
			enc.Free()
		}
		n := batch
		if part == encoder.TextPart {
			n = 32
		}
		enc, err := encoder.Load(p, e, n, part)
		if err == nil {
			loaded = map[string]*encoder.Encoders{part: enc}
		}
		return enc, err
	}
}
