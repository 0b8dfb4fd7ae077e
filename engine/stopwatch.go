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

// TimeUpdates begins to take the time of every update that is a program of its own, or ends it: the engine then waits for
// the gradients before each, and for its result. An update within its gradient's program (granularity network without
// Split or micro-batches) is not seen. No number changes.
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
