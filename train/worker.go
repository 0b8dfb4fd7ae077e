package train

import (
	"context"
	"errors"

	"fewstep/data/feed"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/model/family"
	"fewstep/train/rundir"
)

// worker is a phase on one device: the session, and the device's part of every micro-batch. All devices of a process work at
// once. Samples are numbered, and all randomness follows from their numbers, so that nothing but the order of sums depends on
// how many devices there are.
type worker struct {
	*Setup
	models *models
	loader *loader
	s      *method.Session
	at     int // the phase's index in the ladder

	feed    *feed.Feed[method.Host, *method.Inputs]
	decoded *feed.Ahead[drawn] // samples whose images are encoded while the run trains
}

// prepare puts the phase's networks and optimizers on the device, with the state of a checkpoint, if there is one.
func (w *worker) prepare(ctx context.Context, checkpoint *rundir.Checkpoint) error {
	s := w.s
	if err := s.Load(); err != nil {
		return err
	}
	if checkpoint == nil && s.Phase.ClosedForm > 0 {
		if err := w.closedForm(ctx); err != nil {
			return err
		}
	}
	if err := s.Optimize(); err != nil {
		return err
	}
	s.Engine.ResetPeak()
	w.feeds()
	switch {
	case checkpoint != nil:
		return w.restoreOptimizers(checkpoint)
	case w.Config.Discriminator.CarryOptimizer && s.Step.DiscriminatorBackbone == distill.Carried:
		return w.carryOptimizer()
	}
	return nil
}

// free gives back what the worker holds on its device.
func (w *worker) free() {
	if w.feed != nil {
		w.feed.Close()
	}
	if w.decoded != nil {
		w.decoded.Close()
	}
	w.s.Free()
}

// feeds begins to make the phase's micro-batches, of each the device's part.
func (w *worker) feeds() {
	s := w.s
	w.feed = &feed.Feed[method.Host, *method.Inputs]{Fill: w.fill, Upload: s.Upload, Free: (*method.Inputs).Free, Size: w.Config.Train.Batch,
		End: s.Step.First + s.Step.Samples + int64(s.Rank*s.Samples())}
	s.Source = w.feed
}

// pictures decodes samples of the device's parts of micro-batches ahead of fill: those of two, at least one for each core.
func (w *worker) pictures() *feed.Ahead[drawn] {
	if w.decoded == nil {
		batch, n := int64(w.Config.Train.Batch), int64(w.s.Samples())
		readers := w.Data.Readers()
		w.decoded = &feed.Ahead[drawn]{Make: w.loader.draw, Workers: readers, Most: max(readers, 2*int(n)), Next: func(k int64) int64 {
			if (k+1)%batch%n == 0 {
				return k + 1 + batch - n
			}
			return k + 1
		}}
	}
	return w.decoded
}

// fill makes a micro-batch of the samples from first on: x_t by (1) with the schedule fix (3.5), captions, conditions, ε*.
// They are of one shape.
func (w *worker) fill(m *method.Host, first int64) error {
	l, n := w.loader, w.s.Samples()
	if err := w.s.Draw(m, first); err != nil {
		return err
	}
	shape := l.shapes[l.order.Shape(first)]
	w.s.Reshape(m, shape.Height/w.Pipeline.Factor(), shape.Width/w.Pipeline.Factor())
	encodings, err := w.encodings(first, n)
	if err != nil {
		return err
	}
	failed := make([]error, n)
	feed.Each(n, func(i int) {
		k, x := first+int64(i), method.Part(m.X, i, n)
		var ofCaption [][]float32
		for j, t := range w.Pipeline.Conditions() {
			switch part := method.Part(m.Conditions[j], i, n); {
			case t.Caption:
				ofCaption = append(ofCaption, part)
			case t.Name == family.Sizes:
				copy(part, encodings.drawn[i].sizes)
			}
		}
		if failed[i] = encodings.text(l, i, ofCaption); failed[i] != nil {
			return
		}
		if failed[i] = encodings.latent(l, i, x, k); failed[i] != nil {
			return
		}
		m.Noise(w.Config.Seed, i, k)
	})
	return errors.Join(failed...)
}
