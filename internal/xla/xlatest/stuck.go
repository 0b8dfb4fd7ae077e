package xlatest

import (
	"testing"

	"github.com/gomlx/compute"
)

// Stuck is a backend that never ends a compilation before the test ends: what returns while one is going on did not wait
// for it.
type Stuck struct {
	compute.Backend
	began chan string
	end   chan struct{}
}

// NewStuck makes one of a backend that compiles.
func NewStuck(t testing.TB, b compute.Backend) *Stuck {
	s := &Stuck{Backend: b, began: make(chan string, 1), end: make(chan struct{})}
	t.Cleanup(func() { close(s.end) })
	return s
}

// Compiling waits for a compilation to begin, and names its program.
func (s *Stuck) Compiling() string { return <-s.began }

// Builder is that of the backend, but for Compile.
func (s *Stuck) Builder(name string) compute.Builder {
	return &stuckBuilder{s.Backend.Builder(name), s}
}

type stuckBuilder struct {
	compute.Builder
	of *Stuck
}

func (b *stuckBuilder) Compile() (compute.Executable, error) {
	select {
	case b.of.began <- b.Name():
	default: // one is enough
	}
	<-b.of.end
	return b.Builder.Compile()
}
