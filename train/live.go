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
func (w *worker) encodings(first int64, n int) (e encodings, err error) {
	l := w.loader
	var live *encoder.Encoders
	if len(l.live) > 0 {
		live = l.live[w.s.Rank%len(l.live)] // of the process's devices
	}
	e.drawn = make([]drawn, n)
	for i := range e.drawn {
		if l.decodes {
			e.drawn[i], err = w.pictures().Take(first + int64(i))
		} else {
			e.drawn[i], err = l.draw(first + int64(i))
		}
		if err != nil {
			return e, err
		}
	}
	if l.decodes {
		pictures := make([][]float32, n)
		for i, d := range e.drawn {
			pictures[i] = d.pixels
		}
		if e.latents, err = w.toLatents(live, pictures, e.drawn[0].shape); err != nil {
			return e, fmt.Errorf("encoding samples %d to %d: %w", first, first+int64(n)-1, err)
		}
	}
	if l.embeddings == nil {
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
func (e *encodings) text(l *loader, i int, parts [][]float32) error {
	d := e.drawn[i]
	switch {
	case d.dropped:
		if l.empty != nil {
			return fill(l.ofCaption(l.empty), parts)
		}
		for _, part := range parts {
			clear(part)
		}
		return nil
	case e.texts != nil:
		return fill(l.ofCaption(e.texts[i]), parts)
	}
	return l.embeddings.read(l.caption[d.caption], parts...)
}

// latent puts sample i's latents into x: the posterior's mean, or a draw from it that follows from the sample's number k.
func (e *encodings) latent(l *loader, i int, x []float32, k int64) (err error) {
	parts := [][]float32{x}
	var deviation []float32
	if l.deviates() {
		deviation = make([]float32, len(x))
		parts = append(parts, deviation)
	}
	if e.latents != nil {
		err = fill(e.latents[i], parts)
	} else {
		err = l.latents.read(e.drawn[i].row, parts...)
	}
	if err != nil || deviation == nil {
		return err
	}
	noise := make([]float32, len(x))
	distill.Normal(noise, l.Config.Seed, distill.Posterior, k)
	for j := range x {
		x[j] += deviation[j] * noise[j]
	}
	return nil
}
