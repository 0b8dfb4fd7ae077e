package engine

import (
	"maps"
	"slices"
	"time"
)

// stopwatch takes the time of updates, which are queued among the programs of a gradient.
type stopwatch struct {
	on   bool
	took time.Duration
}

// TimeUpdates starts or stops timing of the updates that are programs of their own. While it is on, the engine waits for the
// gradients before each update and for its result after it. It does not see an update that is part of its gradient's program
// (granularity network without Split or micro-batches). Results have the same bits.
func (e *Engine) TimeUpdates(on bool) { e.updates = stopwatch{on: on} }

// UpdateTime returns what updates took since it was last asked, or since TimeUpdates.
func (e *Engine) UpdateTime() time.Duration {
	took := e.updates.took
	e.updates.took = 0
	return took
}

// applyUpdate is apply for a program that updates parameters from gradients, which it takes.
func (e *Engine) applyUpdate(p *program, in groups) (groups, error) {
	if !e.updates.on {
		return e.apply(p, in, argGradient)
	}
	if err := e.settle(in[argGradient]); err != nil {
		return nil, err
	}
	start := time.Now()
	out, err := e.apply(p, in, argGradient)
	if err == nil {
		err = e.settle(slices.Concat(slices.Collect(maps.Values(out))...))
	}
	e.updates.took += time.Since(start)
	return out, err
}

// settle waits for a program's results, all of which are there at once, by reading the smallest.
func (e *Engine) settle(results []*Array) error {
	_, err := e.Floats(slices.MinFunc(results, func(a, b *Array) int { return a.shape.Size() - b.shape.Size() }))
	return err
}
