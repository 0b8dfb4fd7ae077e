package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path"
	"slices"

	"fewstep/configs"
	"fewstep/data/feed"
	"fewstep/data/images"
	"fewstep/internal/atomicfile"
	"fewstep/model/clip"
	"fewstep/model/pipeline"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/parquet-go/parquet-go"
)

// Traced is what a training sample was made of.
type Traced struct {
	Sample  int64     `json:"sample"`
	Stage   string    `json:"stage"` // whose update took it
	Phase   string    `json:"phase"`
	Update  int64     `json:"update"` // of the phase, from 1 on
	Row     int       `json:"row"`    // of the source
	Key     string    `json:"key"`
	Shard   string    `json:"shard"`   // address of the file that holds the image
	SHA256  string    `json:"sha256"`  // of the image's file
	License string    `json:"license"` // where the source has such a column
	Caption string    `json:"caption"`
	Tokens  int       `json:"tokens"`       // of the caption, with the begin and end tokens
	Unseen  string    `json:"unseen"`       // the caption's end, where it has more tokens than the text encoders take
	Dropped bool      `json:"text_dropped"` // the networks were told nothing of the caption
	Shape   string    `json:"shape"`        // that the image was trained in, width × height
	Sizes   []float32 `json:"sizes"`        // that the networks were told: original height and width, crop top and left, target height and width
}

// Trace leads from a run's samples back to its data.
type Trace struct {
	*Setup
	loader  *loader
	updates []monitor.Record
}

// OpenTrace opens a run directory, which may be training, its data set, which must be as it was, and its model's
// configuration. The model and the source are looked for where the recipe says, unless they are given.
func OpenTrace(ctx context.Context, dir, model, source string, log *slog.Logger) (_ *Trace, err error) {
	r := &Setup{folder: dir, log: log, ranks: &ranks{each: 1}}
	if r.Dir, err = rundir.View(dir); err != nil {
		return nil, err
	}
	raw, err := r.Dir.Config()
	if err != nil {
		return nil, err
	}
	if r.Config, err = configs.Parse(raw, r.Dir.Path("config.yaml")); err != nil {
		return nil, err
	}
	if model != "" {
		r.Config.Model = model
	}
	if source != "" {
		r.Config.Data.Source = source
	}
	if r.Pipeline, err = pipeline.Open(r.Config.ModelPath()); err != nil {
		return nil, err
	}
	t := &Trace{Setup: r}
	records, err := monitor.ReadStats(r.Dir.StatsPath())
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if rec.Kind == monitor.KindStep {
			t.updates = append(t.updates, rec)
		}
	}
	if len(t.updates) == 0 {
		return nil, fmt.Errorf("%s: nothing was trained yet", dir)
	}
	if _, err := r.openData(ctx); err != nil {
		return nil, err
	}
	digest, err := r.Data.Digest()
	if err == nil && digest != r.Dir.Lineage().DataManifest {
		err = fmt.Errorf("%s has changed since the run in %s, whose samples it does not tell any more", r.Config.SourcePath(), dir)
	}
	if err == nil {
		t.loader, err = r.openLoader(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, r.Data.Close())
	}
	return t, nil
}

// Close closes the data set.
func (t *Trace) Close() error { return errors.Join(t.loader.close(), t.Data.Close()) }

// Update is the samples of a phase's update, which are counted from 1 on.
func (t *Trace) Update(stage, phase string, n int64) (first, end int64, err error) {
	last := int64(0)
	for _, rec := range t.updates {
		if rec.Stage != stage || rec.Phase != phase {
			continue
		}
		if rec.Step == n {
			return rec.Position - int64(t.Config.Train.GlobalBatch()), rec.Position, nil
		}
		last = max(last, rec.Step)
	}
	if last == 0 {
		return 0, 0, fmt.Errorf("the run made no update of stage %s, phase %s", stage, phase)
	}
	return 0, 0, fmt.Errorf("stage %s, phase %s has no update %d; its last is %d", stage, phase, n, last)
}

// Sample leads a sample back.
func (t *Trace) Sample(k int64) (out Traced, err error) {
	batch := int64(t.Config.Train.GlobalBatch())
	i := slices.IndexFunc(t.updates, func(rec monitor.Record) bool { return rec.Position-batch <= k && k < rec.Position })
	if i < 0 {
		return out, fmt.Errorf("no update took sample %d; the last one ended at %d", k, t.updates[len(t.updates)-1].Position)
	}
	s := t.loader
	d, err := s.draw(k)
	if err != nil {
		return out, err
	}
	rec := t.updates[i]
	out = Traced{Sample: k, Stage: rec.Stage, Phase: rec.Phase, Update: rec.Step, Caption: d.caption, Dropped: d.dropped, Shape: d.shape.String(), Sizes: d.sizes}
	for _, tokenizer := range t.Pipeline.Tokenizer {
		out.Tokens = max(out.Tokens, tokenizer.Count(d.caption))
	}
	if cut, is := clip.CutOf(t.Pipeline.Tokenizer, d.caption); is {
		out.Unseen = cut.Unseen
	}
	return out, t.image(d.row, &out)
}

// image tells of a row's image.
func (t *Trace) image(row int, out *Traced) error {
	set := t.loader.set
	out.Row, out.Key = set.Chosen(row), set.Row(row).Key
	if files := set.Files(); files != nil {
		chosen := files.Select(set.Number(row))
		out.Shard, out.License = chosen.Shard, chosen.License
	}
	content, err := set.Encoded(row)
	if err != nil {
		return err
	}
	content, _ = images.Unmarked(content)
	sum := sha256.Sum256(content)
	out.SHA256 = hex.EncodeToString(sum[:])
	return nil
}

// Listed is a row of a manifest.
type Listed struct {
	Key     string `parquet:"key,zstd" json:"key"`
	Shard   string `parquet:"shard,dict,zstd" json:"shard"` // name of the file that holds the image, without its folder
	SHA256  string `parquet:"sha256,zstd" json:"sha256"`    // of the image's file
	License string `parquet:"license,dict,zstd" json:"license"`
	Draws   int64  `parquet:"draws,zstd" json:"draws"` // how many samples were made of it
}

// Manifest writes a parquet file of every image that the run was trained on, in the order of the source, and returns how many
// there are. Equal data give equal bytes, wherever they lie.
func (t *Trace) Manifest(ctx context.Context, file string) (rows int, err error) {
	s, batch := t.loader, int64(t.Config.Train.GlobalBatch())
	draws := map[int]int64{}
	told := monitor.LogProgress(t.log, "tracing", "updates", 0)
	for i, rec := range t.updates {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		for k := rec.Position - batch; k < rec.Position; k++ {
			row := s.order.Row(k)
			if s.decodes {
				d, err := s.draw(k)
				if err != nil {
					return 0, err
				}
				row = d.row
			}
			draws[row]++
		}
		told(i+1, len(t.updates))
	}
	list := slices.Sorted(maps.Keys(draws))
	told = monitor.LogProgress(t.log, "hashing", "images", 0)
	err = atomicfile.Write(file, func(w io.Writer) error {
		pw := parquet.NewGenericWriter[Listed](w, parquet.CreatedBy("fewstep", "1", "0"))
		done := 0
		for part := range slices.Chunk(list, 1024) {
			if err := ctx.Err(); err != nil {
				return err
			}
			out, failed := make([]Listed, len(part)), make([]error, len(part))
			feed.On(s.set.Readers(), len(part), func(i int) {
				var x Traced
				failed[i] = t.image(part[i], &x)
				out[i] = Listed{x.Key, path.Base(x.Shard), x.SHA256, x.License, draws[part[i]]}
			})
			if err := errors.Join(failed...); err != nil {
				return err
			}
			if _, err := pw.Write(out); err != nil {
				return err
			}
			done += len(part)
			told(done, len(list))
		}
		return pw.Close()
	})
	return len(list), err
}
