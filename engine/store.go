package engine

import (
	"fmt"
	"runtime"
	"sync"
	"time"
)

// store holds the programs of a process. The engines of its devices share one store: a program is compiled
// once and runs on any device.
type store struct {
	mu       sync.Mutex
	programs map[string]*program
	slots    chan struct{} // one for every program that compileAll may compile at once
	compiled CompileStats
	busy     int       // compilations that are going on
	since    time.Time // when the first of them began
	told     func()    // see OnCompiled
}

// CompileStats counts the programs compiled so far and the seconds that took (summed over goroutines).
type CompileStats struct {
	Programs int
	Cached   int // of them, taken from the folder of compiled programs
	Seconds  float64
	Wall     time.Duration // in which at least one was being compiled
}

func newStore() *store {
	return &store{programs: map[string]*program{}, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// Compiled reports the compilations so far.
func (s *store) Compiled() CompileStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compiled
}

// OnCompiled has told called whenever a program has been compiled, by whichever goroutine compiled it. It is called once, before
// anything is compiled.
func (s *store) OnCompiled(told func()) { s.told = told }

// plans are what walks over functions found out, by their keys.
type plans struct {
	mu  sync.Mutex
	all map[string]*plan
}

func newPlans() *plans { return &plans{all: map[string]*plan{}} }

// known is a plan by its key, nil where there is none.
func (p *plans) known(key string) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[key]
}

func (p *plans) learn(key string, of *plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[key] = of
}

// Drop gives back every compiled program and plan. What is run next is compiled again, or loaded from the folder of
// compiled programs. Nothing may be running on the engines that share them.
func (e *Engine) Drop() {
	e.store.drop()
	e.plans.mu.Lock()
	defer e.plans.mu.Unlock()
	clear(e.plans.all)
}

func (s *store) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.programs {
		p.graph.Finalize()
	}
	clear(s.programs)
}

// compile compiles a declared program once.
func (s *store) compile(p *program, on device) {
	p.once.Do(func() {
		defer close(p.compiled)
		if p.err != nil {
			return
		}
		start := time.Now()
		s.mu.Lock()
		if s.busy++; s.busy == 1 {
			s.since = start
		}
		s.mu.Unlock()
		info, err := on.compile(p)
		if err != nil {
			p.err = fmt.Errorf("compiling %s: %w", p.name, err)
		}
		p.pending, p.scratch = nil, info.Scratch
		s.mu.Lock()
		s.compiled.Programs++
		if info.Cached {
			s.compiled.Cached++
		}
		s.compiled.Seconds += time.Since(start).Seconds()
		if s.busy--; s.busy == 0 {
			s.compiled.Wall += time.Since(s.since)
		}
		s.mu.Unlock()
		if s.told != nil {
			s.told()
		}
	})
}
