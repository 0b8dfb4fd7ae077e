package train

import (
	"context"
	"reflect"
	"strings"

	"fewstep/data"
	"fewstep/model/clip"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// openData opens the data set. Images that are encoded before training are decoded once, to know that they can be, unless an
// earlier process of the run did so and nothing has changed since; what that one found out is returned.
func (r *Run) openData(ctx context.Context) (*data.Seen, error) {
	seen := &data.Seen{}
	if rundir.ReadSource(r.opt.Dir, seen) != nil {
		seen = nil // the first start, or of an earlier version: it costs time only
	}
	c := r.Config
	var err error
	if r.Data, err = data.Open(ctx, c.SourcePath(), data.Options{MaxBad: c.Data.MaxBad, Seen: seen, Unchecked: r.mostAhead() == 0, MostChecked: r.mostAhead(),
		Indexing: monitor.LogProgress(r.opt.Log, "indexing the data set", "shards", 0), Checked: monitor.LogProgress(r.opt.Log, "checking the data set", "images", 0)}); err != nil {
		return nil, err
	}
	for _, bad := range r.Data.Bad() {
		r.opt.Log.Warn("image left out", "key", bad.Key, "why", bad.Err)
	}
	if skipped := r.Data.Skipped(); len(skipped) > 0 {
		var what []string
		for _, s := range skipped {
			what = append(what, s.String())
		}
		r.opt.Log.Warn("not all of the data source is used", "left out", strings.Join(what, "; "))
	}
	r.tellCutCaptions()
	return seen, nil
}

// mostTold bounds the rows whose captions are counted when a run starts.
const mostTold = 100_000

// tellCutCaptions warns where captions have more tokens than the text encoders take: what is beyond is not seen, as in
// diffusers.
func (r *Run) tellCutCaptions() {
	c := clip.CountCuts(r.Pipeline.Tokenizer, min(r.Data.Len(), mostTold), func(i int) (string, []string) {
		row := r.Data.Row(i)
		return row.Key, append([]string{row.Caption}, row.Also...)
	}, monitor.LogProgress(r.opt.Log, "counting the tokens of captions", "rows", 0))
	if c.Cut > 0 {
		r.opt.Log.Warn(c.String(), "longest", c.Longest.Key, "unseen", c.Longest.Unseen)
	}
}

// rememberData keeps what was found out for the next process, where it is new.
func (r *Run) rememberData(before *data.Seen) error {
	now, err := r.Data.Seen()
	if err != nil || reflect.DeepEqual(now, before) {
		return err
	}
	return r.Dir.WriteSource(now)
}
