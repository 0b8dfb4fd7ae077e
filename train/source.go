package train

import (
	"context"
	"reflect"
	"strings"

	"fewstep/data"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// openData opens the data set. Images that are encoded before training are decoded once, to know that they can be, unless an
// earlier process of the run did so, or rank 0, and nothing has changed since; what an earlier process found out is returned.
func (s *Setup) openData(ctx context.Context) (*data.Seen, error) {
	seen := &data.Seen{}
	var err error
	if !s.leads() {
		if err = s.hear("the data set", seen); err != nil {
			return nil, err
		}
	} else if rundir.ReadSource(s.folder, seen) != nil {
		seen = nil // the first start, or of an earlier version: it costs time only
	}
	c := s.Config
	if s.Data, err = data.Open(ctx, c.SourcePath(), data.Options{MaxBad: c.Data.MaxBad, Seen: seen, Unchecked: s.mostAhead() == 0, MostChecked: s.mostAhead(),
		Indexing: monitor.LogProgress(s.log, "indexing the data set", "shards", 0), Checked: monitor.LogProgress(s.log, "checking the data set", "images", 0)}); err != nil {
		return nil, err
	}
	for _, bad := range s.Data.Bad() {
		s.log.Warn("image left out", "key", bad.Key, "why", bad.Err)
	}
	if skipped := s.Data.Skipped(); len(skipped) > 0 {
		var what []string
		for _, s := range skipped {
			what = append(what, s.String())
		}
		s.log.Warn("not all of the data source is used", "left out", strings.Join(what, "; "))
	}
	s.tellCutCaptions()
	if s.leads() {
		now, err := s.Data.Seen()
		if err != nil {
			return nil, err
		}
		if err := s.hear("the data set", now); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// mostTold bounds the rows whose captions are counted when a run starts.
const mostTold = 100_000

// tellCutCaptions warns where captions have more tokens than the text encoders take: what is beyond is not seen, as in
// diffusers.
func (s *Setup) tellCutCaptions() {
	told, cut, longest, key := 0, 0, 0, ""
	for i := range min(s.Data.Len(), mostTold) {
		row := s.Data.Row(i)
		told++
		over := false
		for _, t := range s.Pipeline.Tokenizer {
			if n := t.Count(row.Caption); n > t.MaxLength {
				over = true
				if n > longest {
					longest, key = n, row.Key
				}
			}
		}
		if over {
			cut++
		}
	}
	if cut > 0 {
		s.log.Warn("captions are cut to the tokens that the text encoders take", "captions", cut, "of", told, "longest", longest, "key", key, "tokens", s.Pipeline.Tokenizer[0].MaxLength)
	}
}

// rememberData keeps what was found out for the next process, where it is new.
func (s *Setup) rememberData(before *data.Seen) error {
	now, err := s.Data.Seen()
	if err != nil || reflect.DeepEqual(now, before) {
		return err
	}
	return s.Dir.WriteSource(now)
}
