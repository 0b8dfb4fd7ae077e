package main

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/data"
	"fewstep/data/encoded"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/internal/xla"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/monitor"
)

type encodeOptions struct {
	encoded.Settings
	model string
	text  float64 // GiB
}

func newDataEncode(a *app) *cobra.Command {
	var o encodeOptions
	c := &cobra.Command{
		Use:   "encode SOURCE --model MODEL --out DIR",
		Short: "Encode a data set once, for any number of runs.",
		Long: "Encodes a data set once, for any number of runs.\n\n" +
			"It writes latents and text embeddings as safetensors of bf16 to DIR, which then is a source for data.source. What is\n" +
			"there already is not made again: after a kill the same command continues, and after a change of captions, images or\n" +
			"model it makes what has changed. Several processes share the work with --rank and --ranks, each on its device; the\n" +
			"bytes are the same for any number of them. The document of package data/encoded describes the files.\n\n" + sourcesHelp,
		Example: "  fewstep data encode kept.parquet --model sdxl/ --out encoded/ --resolution 1024\n" +
			"  fewstep run recipe.yaml --set data.source=encoded/ --dir runs/1",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.Dir == "" || o.model == "":
				return withHint(usageErrorf("nothing to encode with, or to write to"), "give --model and --out")
			case o.Resolution < 8 || o.Resolution%8 != 0:
				return usageErrorf("--resolution is %d; it must be a multiple of 8", o.Resolution)
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
	f.IntVar(&o.Resolution, "resolution", 1024, "side of the square images in pixels")
	f.IntVar(&o.Tile, "tile", 0, "encode in overlapping tiles of this side in pixels, as 512, where memory is short; 0 = whole")
	f.IntVar(&o.Batch, "batch", 16, "images decoded and encoded at a time")
	f.IntVar(&o.MaxBad, "max-bad", 1000, "images that cannot be decoded before it stops")
	f.Float64Var(&o.text, "text", 64, "encode captions if that takes at most so many GiB; larger sets' captions are encoded by each run; 0 = never")
	f.IntVar(&o.Rank, "rank", 0, "which of the processes this is, from 0 on")
	f.IntVar(&o.Ranks, "ranks", 1, "processes that share the work")
	return c
}

func (a *app) encodeData(cmd *cobra.Command, o encodeOptions) error {
	address := o.Source
	if !strings.Contains(address, "://") {
		var err error
		if o.Source, err = filepath.Abs(address); err != nil {
			return err
		}
	}
	set, err := data.Open(address, data.Options{Unchecked: true, MaxBad: o.MaxBad})
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
	if o.VAE, err = train.WeightsHash(p, train.VAEComponents...); err != nil {
		return err
	}
	if o.Text, err = train.WeightsHash(p, p.Kind.Text...); err != nil {
		return err
	}
	size := pipeline.Square(o.Resolution)
	shapes := p.UNetInputs(1, size)
	o.Latent = shapes[family.Sample].Dimensions[1:]
	for _, c := range p.Conditions() {
		switch c.Name {
		case family.Text:
			o.TextShape = c.Dims
		case family.Pooled:
			o.PooledSize = c.Size()
		}
	}
	o.TextLimit = int64(o.text * (1 << 30))
	var rt *xla.Runtime // opened when something is to be encoded
	defer func() {
		if rt != nil {
			rt.Close()
		}
	}()
	loaded := map[string]*encoder.Encoders{}
	load := func(part string, n int) (_ *encoder.Encoders, err error) { // the other part's memory is given back
		if enc := loaded[part]; enc != nil {
			return enc, nil
		}
		if rt == nil {
			if rt, err = a.openBackend(xla.Options{}); err != nil {
				return nil, err
			}
		}
		for _, enc := range loaded {
			enc.Free()
		}
		enc, err := encoder.Load(p, engine.New(rt.Backend, dtypes.Float32, nn.Network), n, part)
		if err == nil {
			enc.Tile = o.Tile
			loaded = map[string]*encoder.Encoders{part: enc}
		}
		return enc, err
	}
	o.Images = func(images [][]float32) ([][]float32, error) {
		enc, err := load(encoder.VAEPart, o.Batch)
		if err != nil {
			return nil, err
		}
		return enc.Latents(images, size)
	}
	o.Texts = func(captions []string) (text, pooled [][]float32, err error) {
		enc, err := load(encoder.TextPart, 32)
		if err != nil {
			return nil, nil, err
		}
		out, err := enc.Text(captions)
		for _, v := range out {
			text, pooled = append(text, v[family.Text]), append(pooled, v[family.Pooled])
		}
		return text, pooled, err
	}
	told := map[string]func(done, total int){}
	o.Progress = func(what string, done, total int) {
		if told[what] == nil { // what is there before the first shard that is made takes no time
			told[what] = monitor.LogProgress(a.log, "encoding", what, done-1)
		}
		told[what](done, total)
	}
	r, err := encoded.Run(cmd.Context(), set, o.Settings)
	if err != nil {
		return hintAtMemory(err)
	}
	if a.json {
		return a.writeJSON(r)
	}
	w := &lines{to: a.stdout}
	w.printf("%s: %d rows of %s\n  shards      %d made, %d there before", o.Dir, r.Rows, address, r.Made, r.Present)
	if r.Missing > 0 {
		w.printf(", %d left to other ranks: run it once more when they are done", r.Missing)
	}
	w.printf("\n  bad images  %d\n", r.Bad)
	if r.Text {
		w.printf("  text        %s\n", bytesText(r.TextBytes))
	} else {
		w.printf("  text        not encoded (%s; --text): each run encodes its captions\n", bytesText(r.TextBytes))
	}
	if total := r.Encoding + r.Waiting; r.Made > 0 && total > 0 {
		w.printf("  device      encoded for %s, waited for images %s (%.1f %%)\n", r.Encoding.Round(time.Millisecond), r.Waiting.Round(time.Millisecond), 100*float64(r.Waiting)/float64(total))
	}
	return w.err
}
