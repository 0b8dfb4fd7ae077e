package train

import (
	"fmt"

	"fewstep/distill"
	"fewstep/engine/encoder"
	"fewstep/model/family"
)

// encodings are what the encoders made of samples: those of records are read when they are wanted, the others are there.
type encodings struct {
	drawn   []drawn
	latents [][]float32         // records, made while the run trains; nil = read
	texts   []family.Conditions // the same of captions
}

// encodings draws n samples and encodes, on the phase's device, what was not encoded before. What becomes of a sample does
// not depend on which others go through the encoders with it.
func (p *phase) encodings(first int64, n int) (e encodings, err error) {
	s := p.samples
	var live *encoder.Encoders
	if len(s.live) > 0 {
		live = s.live[p.s.Rank%len(s.live)] // of the process's devices
	}
	e.drawn = make([]drawn, n)
	for i := range e.drawn {
		if s.decodes {
			e.drawn[i], err = p.pictures().Take(first + int64(i))
		} else {
			e.drawn[i], err = s.draw(first + int64(i))
		}
		if err != nil {
			return e, err
		}
	}
	if s.decodes {
		pictures := make([][]float32, n)
		for i, d := range e.drawn {
			pictures[i] = d.pixels
		}
		if e.latents, err = p.toLatents(live, pictures, e.drawn[0].shape); err != nil {
			return e, fmt.Errorf("encoding samples %d to %d: %w", first, first+int64(n)-1, err)
		}
	}
	if s.embeddings == nil {
		captions := make([]string, n)
		for i, d := range e.drawn {
			captions[i] = d.caption
		}
		if e.texts, err = live.Text(captions); err != nil {
			return e, fmt.Errorf("encoding samples %d to %d: %w", first, first+int64(n)-1, err)
		}
	}
	return e, nil
}

// text puts sample i's conditions that follow from its caption into parts.
func (e *encodings) text(s *samples, i int, parts [][]float32) error {
	d := e.drawn[i]
	switch {
	case d.dropped:
		if s.empty != nil {
			return fill(s.run.ofCaption(s.empty), parts)
		}
		for _, part := range parts {
			clear(part)
		}
		return nil
	case e.texts != nil:
		return fill(s.run.ofCaption(e.texts[i]), parts)
	}
	return s.embeddings.read(s.caption[d.caption], parts...)
}

// latent puts sample i's latents into x: the posterior's mean, or a draw from it that follows from the sample's number k.
func (e *encodings) latent(s *samples, i int, x []float32, k int64) (err error) {
	parts := [][]float32{x}
	var deviation []float32
	if s.run.deviates() {
		deviation = make([]float32, len(x))
		parts = append(parts, deviation)
	}
	if e.latents != nil {
		err = fill(e.latents[i], parts)
	} else {
		err = s.latents.read(e.drawn[i].row, parts...)
	}
	if err != nil || deviation == nil {
		return err
	}
	noise := make([]float32, len(x))
	distill.Normal(noise, s.run.Config.Seed, distill.Posterior, k)
	for j := range x {
		x[j] += deviation[j] * noise[j]
	}
	return nil
}
