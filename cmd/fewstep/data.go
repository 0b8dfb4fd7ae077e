package main

import (
	"cmp"
	"context"
	"fmt"
	"image/png"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/data"
	"fewstep/data/images"
	"fewstep/data/source"
	"fewstep/data/survey"
	"fewstep/internal/atomicfile"
	"fewstep/model/clip"
	"fewstep/model/pipeline"
	"fewstep/train/monitor"
)

func init() { register(newData) }

const sourcesHelp = `SOURCE is a parquet, tar (webdataset, img2dataset) or zip file, a folder of them, of MDS shards or of images with captions
(.txt, .caption, .json, metadata.jsonl, metadata.csv), or several by a pattern: 'laion/{00000..00127}.tar', 's3://bucket/set/*.parquet'.
S3-compatible storage is found by AWS_ENDPOINT_URL, AWS_REGION and the usual credentials. 'data filter' writes selections of
rows, which are sources too.`

func newData(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "data",
		Short:   "Look at data sets, choose from them and encode them.",
		Long:    "Looks at data sets, chooses rows from them and encodes them.\n\n" + sourcesHelp,
		Example: "  fewstep data inspect assets/scenes/demo.scenes.json\n  fewstep data filter 's3://laion/{00000..00127}.tar' --recipe paper --out kept.parquet",
	}
	c.AddCommand(newDataInspect(a), newDataFilter(a), newDataEncode(a), newDataTrace(a))
	return c
}

func (a *app) openSource(cmd *cobra.Command, address string, uncaptioned bool) (*source.Files, error) {
	return source.Open(cmd.Context(), address, source.Options{Uncaptioned: uncaptioned, Progress: monitor.LogProgress(a.log, "indexing", "shards", 0)})
}

func newDataInspect(a *app) *cobra.Command {
	var s survey.Settings
	var sheet, model string
	var uncaptioned bool
	c := &cobra.Command{
		Use:   "inspect SOURCE",
		Short: "Say what a data set holds: counts, failures, columns, sizes.",
		Long: "Says what a data set holds.\n\nIt tells rows, what was left out and why, captions, columns, and of some images the formats, sizes and which cannot be\n" +
			"decoded. Captions longer than the text encoders take are counted, with what of them is not seen.\n\nSpecs of scenes (*.scenes.json) and what 'data encode' wrote are sources too. " + sourcesHelp,
		Example: "  fewstep data inspect laion/ --images 5000 --sheet sheet.png\n  fewstep data inspect 's3://bucket/{00000..00127}.tar' --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := data.Open(cmd.Context(), args[0], data.Options{Uncaptioned: uncaptioned, Unchecked: true, MaxBad: math.MaxInt,
				Indexing: monitor.LogProgress(a.log, "indexing", "shards", 0)})
			if err != nil {
				return err
			}
			defer set.Close()
			if s.Tokenizer, err = a.tokenizers(cmd.Context(), model); err != nil {
				return err
			}
			s.Counting = monitor.LogProgress(a.log, "counting the tokens of captions", "rows", 0)
			var tiles []images.RGB
			if sheet != "" {
				s.Tiles, s.Sheet = 36, func(m images.RGB) { tiles = append(tiles, m) }
				s.Images = max(s.Images, 36)
			}
			s.Progress = monitor.LogProgress(a.log, "decoding", "images", 0)
			r, err := survey.Make(cmd.Context(), args[0], set, s)
			if err != nil {
				return err
			}
			if sheet != "" && len(tiles) > 0 {
				if err := atomicfile.Write(sheet, func(w io.Writer) error { return png.Encode(w, survey.Sheet(tiles)) }); err != nil {
					return err
				}
			}
			if a.json {
				return a.writeJSON(r)
			}
			return a.printSurvey(r)
		},
	}
	c.Flags().IntVar(&s.Images, "images", 1000, "decode so many images, evenly spread; -1 = all")
	c.Flags().IntVar(&s.Side, "resolution", 1024, "side that training will use: smaller images are counted")
	c.Flags().StringVar(&sheet, "sheet", "", "write 36 samples to this PNG file")
	c.Flags().StringVar(&model, "model", "", "model whose tokenizers say which captions are cut; left out = SDXL's")
	c.Flags().BoolVar(&uncaptioned, "uncaptioned", false, "rows need no caption")
	return c
}

// tokenizers are a model's, or SDXL's where none is named: both of SDXL's cut captions alike.
func (a *app) tokenizers(ctx context.Context, model string) ([]*clip.Tokenizer, error) {
	if model == "" {
		t, err := clip.Standard().Tokenizer(clip.StandardLength, "!")
		return []*clip.Tokenizer{t}, err
	}
	if err := a.localAll(ctx, &model); err != nil {
		return nil, err
	}
	p, err := pipeline.Open(model)
	if err != nil {
		return nil, err
	}
	return p.Tokenizer, nil
}

func (a *app) printSurvey(r *survey.Report) error {
	w := &lines{to: a.stdout}
	w.printf("%s\n", r.Source)
	w.printf("  rows        %d in %d shards, %s of images\n", r.Rows, max(r.Shards, 1), bytesText(r.Bytes))
	for _, split := range slices.Sorted(maps.Keys(r.Splits)) {
		w.printf("  split       %s: %d\n", split, r.Splits[split])
	}
	for _, s := range r.Skipped {
		w.printf("  left out    %s\n", s)
	}
	if r.Flawed > 0 {
		w.printf("  no caption  %d rows cannot be used\n", r.Flawed)
		for _, f := range r.Flaws[:min(3, len(r.Flaws))] {
			w.printf("              %s: %s\n", f.Key, f.Why)
		}
	}
	w.printf("  captions    %s words; %d of %d rows have several\n", ranged(r.Words), r.Listed, r.Looked)
	w.cuts(r.Cuts)
	for _, c := range r.Columns {
		value := "as " + short(c.Example)
		if c.Range != nil {
			value = ranged(*c.Range)
		}
		w.printf("  column      %s (%d rows): %s\n", c.Name, c.Rows, value)
	}
	i := r.Images
	if i.Decoded+i.Bad > 0 {
		var formats []string
		for _, f := range slices.Sorted(maps.Keys(i.Formats)) {
			formats = append(formats, fmt.Sprintf("%s %d", f, i.Formats[f]))
		}
		w.printf("  images      %d decoded: %s\n", i.Decoded, strings.Join(formats, ", "))
		w.printf("  width       %s\n  height      %s\n", ranged(i.Width), ranged(i.Height))
		w.printf("  shorter     %s; %d below %d\n", ranged(i.Short), i.Below, i.BelowThe)
		w.printf("  bad         %d\n", i.Bad)
		for _, s := range i.Reasons[:min(5, len(i.Reasons))] {
			w.printf("              %s\n", s)
		}
	}
	w.printf("  fingerprint %s\n", r.Fingerprint)
	return w.err
}

// cuts tells which captions the text encoders see the beginning of, and what they do not see of some.
func (l *lines) cuts(c clip.Cuts) {
	l.printf("  cut         %d of %d captions have more than the %d tokens that the text encoders take\n", c.Cut, c.Captions, c.Tokens)
	for _, x := range c.Examples {
		l.printf("              %s: of %d tokens unseen: %s\n", x.Key, x.Tokens, short(x.Unseen))
	}
}

func ranged(r survey.Range) string {
	return fmt.Sprintf("%.4g to %.4g, median %.4g", r.Min, r.Max, r.Median)
}

// lines writes text and keeps the first error.
type lines struct {
	to  io.Writer
	err error
}

func (l *lines) printf(format string, args ...any) {
	_, err := fmt.Fprintf(l.to, format, args...)
	l.err = cmp.Or(l.err, err)
}
