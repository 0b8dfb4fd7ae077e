package engine

import (
	"context"
	"sync"
)

// ahead collects the programs that an engine would run, in the order in which it would run them first.
type ahead struct {
	ctx   context.Context
	mu    sync.Mutex
	some  sync.Cond // there is one more in queue, or done
	seen  map[*program]bool
	queue []*program
	done  bool // there will be no more
}

// need asks for a program to be compiled; it is declared.
func (a *ahead) need(p *program) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.seen[p] {
		a.seen[p] = true
		a.queue = append(a.queue, p)
		a.some.Signal()
	}
	return a.ctx.Err()
}

// next is the first program that no one has taken, nil at the end.
func (a *ahead) next() *program {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) == 0 && !a.done {
		a.some.Wait()
	}
	if len(a.queue) == 0 || a.ctx.Err() != nil {
		return nil
	}
	p := a.queue[0]
	a.queue = a.queue[1:]
	return p
}

// Ahead compiles the programs that use will run. It calls use with an engine like this one whose arrays have no content: that
// engine runs nothing, and compiles every program that it is asked to run, on all cores, in the order in which it is asked. The
// programs are this engine's. Where every place has programs of its own ([Engine.Sites]) they are those of one place of each
// kind, which then lie in the folder of compiled programs. A program that cannot be compiled fails again when it is run. Ahead
// returns when all is compiled or, once ctx has ended, when use has returned; what is being compiled then goes on by itself.
func (e *Engine) Ahead(ctx context.Context, use func(*Engine) error) error {
	a := &ahead{ctx: ctx, seen: map[*program]bool{}}
	a.some.L = &a.mu
	like := e.like(nil)
	like.device, like.ahead, like.plans = &onPaper{like}, a, newPlans()
	like.group, like.slot, like.rank = e.group, e.slot, e.rank
	if e.Sites {
		like.store, like.Sites = newStore(), false
	}
	var workers sync.WaitGroup
	for range cap(like.slots) {
		workers.Go(func() {
			for p := a.next(); p != nil; p = a.next() {
				like.slots <- struct{}{}
				like.compile(p, e.device)
				<-like.slots
			}
		})
	}
	err := use(like)
	a.mu.Lock()
	a.done = true
	a.mu.Unlock()
	a.some.Broadcast()
	compiled := make(chan struct{})
	go func() {
		workers.Wait()
		if e.Sites {
			like.Drop()
		}
		close(compiled)
	}()
	select {
	case <-compiled:
	case <-ctx.Done():
	}
	return err
}
