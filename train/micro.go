package train

import (
	"errors"

	"fewstep/data/feed"
	"fewstep/distill/method"
	"fewstep/model/family"
)

// feeds begins to make the phase's micro-batches, of each the device's part.
func (p *phase) feeds() {
	s := p.s
	p.feed = &feed.Feed[method.Host, *method.Inputs]{Fill: p.fill, Upload: s.Upload, Free: (*method.Inputs).Free, Size: p.Config.Train.Batch,
		End: s.Step.First + s.Step.Samples + int64(s.Rank*s.Samples())}
	s.Source = p.feed
}

// pictures decodes samples of the device's parts of micro-batches ahead of fill: those of two, at least one for each core.
func (p *phase) pictures() *feed.Ahead[drawn] {
	if p.decoded == nil {
		batch, n := int64(p.Config.Train.Batch), int64(p.s.Samples())
		readers := p.Data.Readers()
		p.decoded = &feed.Ahead[drawn]{Make: p.samples.draw, Workers: readers, Most: max(readers, 2*int(n)), Next: func(k int64) int64 {
			if (k+1)%batch%n == 0 {
				return k + 1 + batch - n
			}
			return k + 1
		}}
	}
	return p.decoded
}

// fill makes a micro-batch of the samples from first on: x_t by (1) with the schedule fix (3.5), captions, conditions, ε*.
// They are of one shape.
func (p *phase) fill(m *method.Host, first int64) error {
	s, n := p.samples, p.s.Samples()
	if err := p.s.Draw(m, first); err != nil {
		return err
	}
	shape := s.shapes[s.order.Shape(first)]
	p.s.Reshape(m, shape.Height/p.Pipeline.Factor(), shape.Width/p.Pipeline.Factor())
	encodings, err := p.encodings(first, n)
	if err != nil {
		return err
	}
	failed := make([]error, n)
	feed.Each(n, func(i int) {
		k, x := first+int64(i), method.Part(m.X, i, n)
		var ofCaption [][]float32
		for j, t := range p.Pipeline.Conditions() {
			switch part := method.Part(m.Conditions[j], i, n); {
			case t.Caption:
				ofCaption = append(ofCaption, part)
			case t.Name == family.Sizes:
				copy(part, encodings.drawn[i].sizes)
			}
		}
		if failed[i] = encodings.text(s, i, ofCaption); failed[i] != nil {
			return
		}
		if failed[i] = encodings.latent(s, i, x, k); failed[i] != nil {
			return
		}
		m.Noise(p.Config.Seed, i, k)
	})
	return errors.Join(failed...)
}
