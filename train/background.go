package train

import (
	"sync"

	"fewstep/distill"
)

// background does one thing after the other beside training. The first error is told by what is begun, or waited for, next.
type background struct {
	turn   sync.Mutex // whose turn it is
	mu     sync.Mutex
	failed error
	wait   sync.WaitGroup
}

func (b *background) do(f func() error) error {
	if err := b.err(); err != nil {
		return err
	}
	b.wait.Go(func() {
		b.turn.Lock()
		defer b.turn.Unlock()
		if b.err() != nil {
			return
		}
		if err := f(); err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.failed = err
		}
	})
	return nil
}

func (b *background) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Finished waits for what Options.Finished does beside training.
func (r *Run) Finished() error {
	r.aside.wait.Wait()
	return r.aside.err()
}

// Made calls f for each phase that has a result, and whose artifact no later phase of its stage makes again.
func (r *Run) Made(f func(distill.Step) error) error {
	for _, step := range r.Ladder.Steps() {
		if has, _, err := r.Dir.Begun(phaseOf(step)); err != nil || !has {
			return err
		}
		if !step.Final {
			continue
		}
		if err := f(step); err != nil {
			return err
		}
	}
	return nil
}
