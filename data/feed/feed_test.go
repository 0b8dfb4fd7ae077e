package feed

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// device counts what is on it.
type device struct {
	live, most atomic.Int64
}

func (d *device) feed(size int, end int64) *Feed[[]int64, int64] {
	return &Feed[[]int64, int64]{Size: size, End: end,
		Fill: func(to *[]int64, first int64) error { *to = append((*to)[:0], first); return nil },
		Upload: func(from *[]int64) (int64, error) {
			d.most.Store(max(d.most.Load(), d.live.Add(1)))
			return (*from)[0], nil
		},
		Free: func(int64) { d.live.Add(-1) },
	}
}

// The batches come in order, all of them, and the device holds one that was not taken; after Wait, exactly one.
func TestOrderAndBound(t *testing.T) {
	const size, batches = 4, 10
	for _, together := range []int64{1, 5} { // batches of an update
		var d device
		f := d.feed(size, size*batches-1) // the last one is whole
		var taken []int64
		for at := int64(0); at < size*batches; at += size {
			got, err := f.Take(at)
			if err != nil || got != at {
				t.Fatalf("%d, %v, want %d", got, err, at)
			}
			if taken = append(taken, got); int64(len(taken)) < together {
				continue
			}
			f.Wait()
			live := together + 1
			if at == size*(batches-1) {
				live = together
			}
			if d.live.Load() != live {
				t.Errorf("batch at %d: %d are there, want %d", at, d.live.Load(), live)
			}
			for _, b := range taken {
				f.Free(b)
			}
			taken = nil
		}
		if got, err := f.Take(size * batches); err == nil {
			t.Errorf("%d behind the end", got)
		}
		f.Close()
		if d.live.Load() != 0 || d.most.Load() > together+1 {
			t.Errorf("%d batches are left; %d at most, of %d", d.live.Load(), d.most.Load(), together+1)
		}
	}
}

// A batch elsewhere begins anew and gives back what was made for another; Close ends all goroutines at any time.
func TestJumpAndClose(t *testing.T) {
	before := runtime.NumGoroutine()
	var d device
	f := d.feed(2, 1000)
	for i, at := range []int64{0, 2, 400, 402, 100} {
		got, err := f.Take(at)
		if err != nil || got != at {
			t.Fatalf("%d, %v, want %d", got, err, at)
		}
		if i%2 == 0 {
			f.Wait()
		}
		f.Free(got)
	}
	f.Close()
	f.Close()
	if d.live.Load() != 0 {
		t.Errorf("%d batches are left", d.live.Load())
	}
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// What fails is told with its own update, and not before.
func TestFailureInOrder(t *testing.T) {
	broken := errors.New("broken")
	for _, where := range []string{"fill", "upload"} {
		var d device
		f := d.feed(1, 1000)
		fill, upload := f.Fill, f.Upload
		f.Fill = func(to *[]int64, first int64) error {
			if where == "fill" && first == 5 {
				return fmt.Errorf("sample %d: %w", first, broken)
			}
			return fill(to, first)
		}
		f.Upload = func(from *[]int64) (int64, error) {
			if where == "upload" && (*from)[0] == 5 {
				return 0, broken
			}
			return upload(from)
		}
		for at := range int64(5) {
			got, err := f.Take(at)
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			f.Wait()
			f.Free(got)
		}
		for range 2 {
			if _, err := f.Take(5); !errors.Is(err, broken) {
				t.Errorf("%s: %v", where, err)
			}
		}
		f.Close()
		if d.live.Load() != 0 {
			t.Errorf("%s: %d batches are left", where, d.live.Load())
		}
	}
}
