package engine

import (
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

// executeUpdate is execute for a program that updates parameters from gradients, which are among its inputs.
func (e *Engine) executeUpdate(p *program, in []*Array, donate []bool, gradients ...*Array) ([]*Array, error) {
	if !e.updates.on {
		return e.execute(p, in, donate)
	}
	if err := e.settle(gradients); err != nil {
		return nil, err
	}
	start := time.Now()
	out, err := e.execute(p, in, donate)
	if err == nil {
		err = e.settle(out)
	}
	e.updates.took += time.Since(start)
	return out, err
}

// settle waits for a program's results, all of which are there at once, by reading the smallest.
func (e *Engine) settle(results []*Array) error {
	_, err := e.Floats(slices.MinFunc(results, func(a, b *Array) int { return a.shape.Size() - b.shape.Size() }))
	return err
}
