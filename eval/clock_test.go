package eval

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestStopwatch: time in which several stations draw counts once, time in which all of them are held back does not
// count, and a batch in which programs were compiled is left out with its time. The clock is synctest's.
func TestStopwatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stopwatch
		programs := 0
		s.begin(func() int { return programs })
		work := func(d time.Duration) func() error { return func() error { time.Sleep(d); return nil } }
		if !s.clear(t.Context()) {
			t.Fatal("the first batch was held back")
		}
		programs = 7
		var held time.Duration
		var second sync.WaitGroup
		second.Go(func() {
			start := time.Now()
			if !s.clear(t.Context()) {
				t.Error("the line had not stopped")
			}
			held = time.Since(start)
		})
		_ = s.during(work(40 * time.Second)) // compiles
		s.drawn(4)
		second.Wait()
		if held != 40*time.Second {
			t.Errorf("the second batch began after %v, while the first one compiled for 40 s", held)
		}
		var stations sync.WaitGroup
		for _, d := range []time.Duration{3 * time.Second, 5 * time.Second} {
			stations.Go(func() { _ = s.during(work(d)) })
		}
		stations.Wait()
		s.drawn(4)
		time.Sleep(50 * time.Second) // held back
		_ = s.during(work(time.Second))
		s.drawn(2)
		time.Sleep(4 * time.Second)
		s.end()
		if got := s.perImage(); math.Abs(got-1) > 1e-9 {
			t.Errorf("%g s an image, 6 images took 6 s", got)
		}
		if got := s.share(); math.Abs(got-0.46) > 1e-9 {
			t.Errorf("share %g, 46 of 100 s were drawing", got)
		}

		s.begin(func() int { return programs })
		stopped, stop := context.WithCancel(t.Context())
		s.clear(stopped)
		programs++
		stop()
		if s.clear(stopped) {
			t.Error("a line that had stopped went on")
		}
	})
}
