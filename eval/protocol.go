// Package eval measures models and makes a run's report: the protocol ("mini"), the table of metrics, the sample
// sheets, and the page.
//
// Every row of a table is made alike: the same prompts, the same starting noise for each prompt, the same real images
// to compare with. All follow from the settings and their seed, so the same models give the same bytes.
package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"fewstep/data"
	"fewstep/distill"
	"fewstep/eval/metric"
	"fewstep/eval/stats"
	"fewstep/model/pipeline"
)

// sheetNoise numbers the noise of prompts that stand on the sheet only.
const sheetNoise = int64(1) << 40

// protocol is what all rows of a table share.
type protocol struct {
	settings   distill.Eval
	resolution int
	prompts    []string
	embeddings []pipeline.Embedding // of prompts
	texts      [][]float64          // of prompts, by the metrics' own text encoder
	ruler      *metric.Ruler
	real       []metric.Features // of the floor
	realTexts  [][]float64       // of the floor's captions

	sheetPrompts    []string
	sheetEmbeddings []pipeline.Embedding // nil when the sheet shows the first prompts

	digest string // of everything above that decides a row's numbers
}

// draw lists the rows and captions of n samples, by the rows' weights and the captions' probabilities.
func draw(set *data.Set, c *distill.Config, n int) (rows []int, captions []string, err error) {
	order, err := set.Order(data.OrderOptions{Seed: c.Eval.Seed, Fine: c.Data.Captions.Fine, Kind: c.Data.Captions.Kind, Coarse: c.Data.Captions.Coarse})
	if err != nil {
		return nil, nil, err
	}
	for k := range int64(n) {
		rows, captions = append(rows, order.Row(k)), append(captions, order.Caption(k))
	}
	return rows, captions, nil
}

// prepare draws prompts and measures the real images. Prompts come from all rows; the ruler is the training rows and
// the floor the held-out ones, so that no image is compared with itself.
func (s *Spec) prepare(enc *pipeline.Encoders, net *metric.Network) (*protocol, error) {
	c := s.Config
	p := &protocol{settings: c.Eval, resolution: c.Data.Resolution}
	path := c.SourcePath()
	all, err := data.Open(path, data.Options{MaxBad: c.Data.MaxBad})
	if err != nil {
		return nil, err
	}
	train, err := data.Open(path, data.Options{Split: "train", MaxBad: c.Data.MaxBad})
	if err != nil {
		return nil, err
	}
	held, err := data.Open(path, data.Options{Split: "eval", MaxBad: c.Data.MaxBad})
	if err != nil {
		return nil, err
	}
	if train.Len() == 0 || held.Len() == 0 {
		return nil, fmt.Errorf("%s has %d training rows and %d held-out ones: the evaluation needs a split column with both \"train\" and \"eval\"", path, train.Len(), held.Len())
	}
	if _, p.prompts, err = draw(all, c, c.Eval.Samples); err != nil {
		return nil, err
	}
	if p.embeddings, err = enc.Text(p.prompts); err != nil {
		return nil, err
	}
	if p.texts, err = net.Text(p.prompts); err != nil {
		return nil, err
	}
	if p.sheetPrompts = c.Eval.SheetPrompts; len(p.sheetPrompts) > 0 {
		if p.sheetEmbeddings, err = enc.Text(p.sheetPrompts); err != nil {
			return nil, err
		}
	} else {
		p.sheetPrompts = p.prompts[:min(c.Eval.SheetSamples, len(p.prompts))]
	}

	s.report(Progress{Model: "real images", Total: train.Len() + held.Len()})
	epoch, err := train.Order(data.OrderOptions{Seed: c.Eval.Seed})
	if err != nil {
		return nil, err
	}
	reference := make([]int, epoch.Len())
	for k := range reference {
		reference[k] = epoch.Row(int64(k))
	}
	features, err := measureReal(net, train, reference, p.resolution)
	if err != nil {
		return nil, err
	}
	if p.ruler, err = metric.NewRuler(features); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	rows, captions, err := draw(held, c, c.Eval.Samples)
	if err != nil {
		return nil, err
	}
	if p.real, err = measureReal(net, held, rows, p.resolution); err != nil {
		return nil, err
	}
	if p.realTexts, err = net.Text(captions); err != nil {
		return nil, err
	}
	p.digest, err = digest(c.Eval, c.Data.Resolution, p.prompts, p.sheetPrompts, features[0], features[len(features)-1], len(features), s.Engine.Compute.String())
	return p, err
}

// measureReal returns the features of a set's rows in the given order; rows may repeat and are looked at once.
func measureReal(net *metric.Network, set *data.Set, rows []int, resolution int) ([]metric.Features, error) {
	at := map[int]int{}
	var distinct []int
	for _, r := range rows {
		if _, ok := at[r]; !ok {
			at[r] = len(distinct)
			distinct = append(distinct, r)
		}
	}
	var features []metric.Features
	const chunk = 64 // images held at a time
	for start := 0; start < len(distinct); start += chunk {
		var images [][]float32
		for _, r := range distinct[start:min(start+chunk, len(distinct))] {
			v, err := set.Image(r, resolution)
			if err != nil {
				return nil, err
			}
			images = append(images, v)
		}
		f, err := net.Features(images, resolution)
		if err != nil {
			return nil, err
		}
		features = append(features, f...)
	}
	out := make([]metric.Features, len(rows))
	for i, r := range rows {
		out[i] = features[at[r]]
	}
	return out, nil
}

func digest(v ...any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

func (p *protocol) resampling() stats.Resampling {
	return stats.Resampling{Resamples: p.settings.Bootstrap, Seed: p.settings.Seed}
}
