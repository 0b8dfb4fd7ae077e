package train

import (
	"errors"

	"fewstep/data/feed"
	"fewstep/distill/method"
	"fewstep/model/family"
	"fewstep/model/pipeline"
)

// feeds begins to make the phase's micro-batches, of each the device's part.
func (p *phase) feeds() {
	s := p.s
	p.feed = &feed.Feed[method.Host, *method.Inputs]{Fill: p.fill, Upload: s.Upload, Free: (*method.Inputs).Free, Size: p.Config.Train.Batch,
		End: s.Step.First + s.Step.Samples + int64(s.Rank*s.Samples())}
	s.Source = p.feed
}

// fill makes a micro-batch of the samples from first on: x_t by (1) with the schedule fix (3.5), captions, conditions, ε*.
func (p *phase) fill(m *method.Host, first int64) error {
	s, n := p.samples, p.s.Samples()
	if err := p.s.Draw(m, first); err != nil {
		return err
	}
	sizes, failed := pipeline.TimeIDs(pipeline.Square(p.Config.Data.Resolution)), make([]error, n)
	feed.Each(n, func(i int) {
		k, x := first+int64(i), method.Part(m.X, i, n)
		var ofCaption [][]float32
		for j, t := range p.Pipeline.Conditions() {
			switch part := method.Part(m.Conditions[j], i, n); {
			case t.Caption:
				ofCaption = append(ofCaption, part)
			case t.Name == family.Sizes:
				copy(part, sizes)
			}
		}
		if failed[i] = s.embeddings.read(s.caption[s.order.Caption(k)], ofCaption...); failed[i] != nil {
			return
		}
		if failed[i] = s.latents.read(s.order.Row(k), x); failed[i] != nil {
			return
		}
		m.Noise(p.Config.Seed, i, k)
	})
	return errors.Join(failed...)
}
