package eval

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
)

// line runs n pieces of work through a source, a station and two ends that take the given times each.
func line(ctx context.Context, n int, make, shape, look, file time.Duration, fail int) (looked, filed []int, err error) {
	g, ctx := errgroup.WithContext(ctx)
	made := source(ctx, g, queued, func(yield func(int) bool) error {
		for i := range n {
			time.Sleep(make)
			if !yield(i) {
				return nil
			}
		}
		return nil
	})
	shaped := station(ctx, g, queued, made, func(i int) (int, error) { time.Sleep(shape); return i, nil })
	sinks(ctx, g, shaped,
		func(i int) error {
			time.Sleep(look)
			if i == fail {
				return errors.New("broken")
			}
			looked = append(looked, i)
			return nil
		},
		func(i int) error { time.Sleep(file); filed = append(filed, i); return nil })
	err = g.Wait()
	return looked, filed, err
}

// TestLineOverlaps: with work behind the source that takes as long as the source, all is done little later than the
// source alone, in order. The clock is synctest's, so the times are exact.
func TestLineOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, each = 20, time.Second
		start := time.Now()
		looked, filed, err := line(context.Background(), n, each, each/2, each, each*9/10, -1)
		took, alone, oneByOne := time.Since(start), n*each, n*each*34/10
		if err != nil || len(looked) != n || !slices.IsSorted(looked) || !slices.Equal(looked, filed) {
			t.Fatalf("looked at %v, filed %v: %v", looked, filed, err)
		}
		if took > alone+2*each {
			t.Errorf("took %v: the source alone takes %v, one after the other %v", took, alone, oneByOne)
		}
	})
}

// TestLineIsBounded: a slow end holds the source back.
func TestLineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ctx := errgroup.WithContext(context.Background())
		made, most := 0, 0
		var done atomic.Int64
		sinks(ctx, g, source(ctx, g, queued, func(yield func(int) bool) error {
			for made < 50 && yield(made) {
				made++
				most = max(most, made-int(done.Load()))
			}
			return nil
		}), func(int) error { time.Sleep(time.Second); done.Add(1); return nil })
		if err := g.Wait(); err != nil || done.Load() != 50 {
			t.Fatalf("%d done: %v", done.Load(), err)
		}
		if most > 3*queued+2 {
			t.Errorf("%d pieces of work were in memory at once", most)
		}
	})
}

// TestLineStops: an error at the end, or a cancelled context, ends every station.
func TestLineStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looked, _, err := line(context.Background(), 1000, time.Second, 0, 0, 0, 3)
		if err == nil || err.Error() != "broken" || len(looked) != 3 {
			t.Errorf("after an error at the fourth piece %d were looked at: %v", len(looked), err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		start := time.Now()
		line(ctx, 1000, time.Second, 0, 0, 0, -1)
		if took := time.Since(start); took > 12*time.Second {
			t.Errorf("a line that was cancelled after 10 seconds took %v", took)
		}
	})
}
