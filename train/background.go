package train

import (
	"sync"
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
