package feed

import "sync"

// Ahead makes numbered things before they are taken: Workers of them at a time, and at most Most that were not taken. Take
// and Close are for one goroutine.
type Ahead[T any] struct {
	Make    func(k int64) (T, error)
	Next    func(k int64) int64 // the number that is taken after k
	Workers int
	Most    int

	begun []pending[T] // in the order in which they are taken
	slots chan struct{}
	wait  sync.WaitGroup
}

// pending is one that is being made, or is.
type pending[T any] struct {
	k    int64
	made chan result[T]
}

type result[T any] struct {
	value T
	err   error
}

// Take gives number k. Where it is not the next one, what was made for others is left.
func (a *Ahead[T]) Take(k int64) (T, error) {
	if a.slots == nil {
		a.slots = make(chan struct{}, max(a.Workers, 1))
	}
	if len(a.begun) > 0 && a.begun[0].k != k {
		a.begun = nil
	}
	next := k
	if n := len(a.begun); n > 0 {
		next = a.Next(a.begun[n-1].k)
	}
	for ; len(a.begun) < max(a.Most, 1); next = a.Next(next) {
		x := pending[T]{next, make(chan result[T], 1)}
		a.begun = append(a.begun, x)
		a.wait.Go(func() {
			a.slots <- struct{}{}
			defer func() { <-a.slots }()
			var r result[T]
			r.value, r.err = a.Make(x.k)
			x.made <- r
		})
	}
	r := <-a.begun[0].made
	a.begun = a.begun[1:]
	return r.value, r.err
}

// Close waits until nothing is being made.
func (a *Ahead[T]) Close() {
	a.begun = nil
	a.wait.Wait()
}
