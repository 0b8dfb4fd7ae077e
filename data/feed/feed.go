// Package feed makes the batches of a training loop ahead of it. One goroutine fills a bounded number of them on the host,
// each on all cores; another uploads the next one while the device is at work on this one.
package feed

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Feed gives one batch after the other. Host is a batch in the host's memory, Device one on the device. Take, Wait and Close
// are for one goroutine.
type Feed[Host, Device any] struct {
	Fill   func(to *Host, first int64) error // makes the batch of the samples from first on, in memory that held an earlier one
	Upload func(*Host) (Device, error)
	Free   func(Device)
	Size   int   // samples from one batch to the next
	End    int64 // batches begin at samples below this one

	Waited time.Duration // in which no batch was ready, of all calls so far

	next   int64   // first sample of the batch that is taken next
	held   *Device // that batch, where it was waited for
	failed error   // what ended the feed; it is told when its batch is taken
	ready  chan uploaded[Device]
	permit chan struct{} // for one more batch to be uploaded
	stop   context.CancelFunc
	wait   sync.WaitGroup
}

// uploaded is a batch on the device, or why there is none.
type uploaded[Device any] struct {
	batch Device
	err   error
}

// filled is one on the host.
type filled[Host any] struct {
	batch *Host
	err   error
}

// ahead is the number of batches that are filled in advance.
const ahead = 4

// Take gives the batch that begins with a sample, and has the next one uploaded. It is the caller's. A batch may begin
// elsewhere than where the last one ended: the feed then begins anew.
func (f *Feed[Host, Device]) Take(first int64) (batch Device, err error) {
	if first != f.next || f.ready == nil {
		f.Close()
		f.start(first)
	}
	f.Wait()
	if f.held == nil {
		if f.failed == nil {
			f.failed = fmt.Errorf("no batches are made from sample %d on: they end at %d", first, f.End)
		}
		return batch, f.failed
	}
	batch, f.held = *f.held, nil
	f.next += int64(f.Size)
	f.permit <- struct{}{}
	return batch, nil
}

// Wait waits until the next batch, if there is one, is on the device. Called within an update it sees to it that what the
// device holds at its peak does not depend on how fast the host is.
func (f *Feed[Host, Device]) Wait() {
	if f.held != nil || f.failed != nil {
		return
	}
	began := time.Now()
	x, ok := <-f.ready
	f.Waited += time.Since(began)
	if !ok {
		return
	}
	if f.failed = x.err; x.err == nil {
		f.held = &x.batch
	}
}

// Close ends the feed and frees what was not taken.
func (f *Feed[Host, Device]) Close() {
	if f.ready == nil {
		return
	}
	f.stop()
	for x := range f.ready {
		if x.err == nil {
			f.Free(x.batch)
		}
	}
	f.wait.Wait()
	if f.held != nil {
		f.Free(*f.held)
	}
	f.ready, f.held = nil, nil
}

// start begins with the batch of a sample.
func (f *Feed[Host, Device]) start(first int64) {
	ctx, stop := context.WithCancel(context.Background()) // a run that is interrupted ends its update: Close ends the feed
	f.stop, f.next, f.failed = stop, first, nil
	free, made := make(chan *Host, ahead), make(chan filled[Host])
	for range ahead {
		free <- new(Host)
	}
	ready, permit := make(chan uploaded[Device], 1), make(chan struct{}, 2)
	f.ready, f.permit = ready, permit
	permit <- struct{}{}
	f.wait.Go(func() {
		defer close(made)
		for at := first; at < f.End; at += int64(f.Size) {
			var x filled[Host]
			select {
			case x.batch = <-free:
			case <-ctx.Done():
				return
			}
			x.err = f.Fill(x.batch, at)
			select {
			case made <- x:
			case <-ctx.Done():
				return
			}
			if x.err != nil {
				return
			}
		}
	})
	f.wait.Go(func() {
		defer close(ready)
		for x := range made {
			select {
			case <-permit:
			case <-ctx.Done():
				return
			}
			out := uploaded[Device]{err: x.err}
			if out.err == nil {
				out.batch, out.err = f.Upload(x.batch)
				free <- x.batch
			}
			ready <- out // one waits there for each permit
			if out.err != nil {
				stop()
				return
			}
		}
	})
}
