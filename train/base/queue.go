package base

import (
	"fmt"
	"math"

	"fewstep/data/feed"
	"fewstep/engine"
)

// uploads puts the batches that were made ahead on the device, each before the update that takes it.
func (t *Trainer) uploads(p *Part, made <-chan result) *feed.Feed[batch, []*engine.Array] {
	return &feed.Feed[batch, []*engine.Array]{
		Fill: func(to *batch, _ int64) error {
			r := <-made
			*to = r.batch
			return r.err
		},
		Upload: t.upload,
		Free:   func(in []*engine.Array) { engine.Free(in...) },
		Size:   p.Batch,
		End:    p.Samples,
	}
}

func (t *Trainer) upload(b *batch) (in []*engine.Array, err error) {
	for _, x := range *b {
		a, err := t.e.Upload(x.flat, x.dims...)
		if err != nil {
			engine.Free(in...)
			return nil, err
		}
		in = append(in, a)
	}
	return in, nil
}

// losses are read when later updates have been queued, so that the device does not wait for the host.
type losses struct {
	e          *engine.Engine
	batch      int64
	queue      []queued
	sum, count float64 // of those that were read since mean
}

// queued is an update whose loss is not read.
type queued struct {
	first  int64 // its samples' first
	result *engine.Result
}

// inFlight is the most updates that are queued and not read.
const inFlight = 2

// settle reads the losses of all updates but the last so many. Nothing that comes of an update is to be saved before it is
// known to be finite.
func (l *losses) settle(but int) error {
	for len(l.queue) > but {
		u := l.queue[0]
		l.queue = l.queue[1:]
		loss, err := l.read(u.result)
		if err != nil {
			return fmt.Errorf("samples %d to %d: %w", u.first, u.first+l.batch-1, err)
		}
		l.sum, l.count = l.sum+loss, l.count+1
	}
	return nil
}

func (l *losses) read(r *engine.Result) (float64, error) {
	defer r.Free()
	v, err := l.e.Floats(r.Outputs[0])
	if err != nil {
		return 0, err
	}
	norm2, err := r.Norm2()
	if err != nil {
		return 0, err
	}
	loss := float64(v[0])
	if math.IsNaN(loss) || math.IsInf(loss, 0) || math.IsNaN(norm2) || math.IsInf(norm2, 0) {
		return 0, fmt.Errorf("loss %g with squared gradient norm %g is not finite; lower the learning rate", loss, norm2)
	}
	return loss, nil
}

// mean is that of the losses that were read since it was last asked for.
func (l *losses) mean() float64 {
	m := l.sum / l.count
	l.sum, l.count = 0, 0
	return m
}

func (l *losses) free() {
	for _, u := range l.queue {
		u.result.Free()
	}
}
