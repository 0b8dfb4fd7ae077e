package eval

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// An evaluation is an assembly line: prompts are encoded and denoised, latents decoded, images looked at and filed.
// Each station is a goroutine that takes work in order from a bounded queue, so that the device draws the next batch
// while the processor is busy with the last, and no more than a few batches are in memory.

// queued is how many pieces of work may wait before a station, unless it says otherwise.
const queued = 2

// source is the first station: it gives what produce yields, of which room may wait before the next station. yield
// returns false when the line has stopped.
func source[T any](ctx context.Context, g *errgroup.Group, room int, produce func(yield func(T) bool) error) <-chan T {
	out := make(chan T, room)
	g.Go(func() error {
		defer close(out)
		return produce(func(v T) bool {
			if ctx.Err() != nil {
				return false
			}
			select {
			case out <- v:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	return out
}

// station applies f to each piece of work, in order.
func station[A, B any](ctx context.Context, g *errgroup.Group, room int, in <-chan A, f func(A) (B, error)) <-chan B {
	return source(ctx, g, room, func(yield func(B) bool) error {
		for v := range in {
			if ctx.Err() != nil {
				return nil // the error is reported by whoever stopped the line
			}
			w, err := f(v)
			if err != nil {
				return err
			}
			if !yield(w) {
				return nil
			}
		}
		return nil
	})
}

// sinks is the end of the line: every piece of work goes to each of the functions, each a station of its own.
func sinks[T any](ctx context.Context, g *errgroup.Group, in <-chan T, ends ...func(T) error) {
	queues := make([]chan T, len(ends))
	for i, end := range ends {
		queues[i] = make(chan T, queued)
		done := station(ctx, g, queued, queues[i], func(v T) (struct{}, error) { return struct{}{}, end(v) })
		g.Go(func() error {
			for range done {
			}
			return nil
		})
	}
	g.Go(func() error {
		defer func() {
			for _, q := range queues {
				close(q)
			}
		}()
		for v := range in {
			for _, q := range queues {
				select {
				case q <- v:
				case <-ctx.Done():
					return nil
				}
			}
		}
		return nil
	})
}
