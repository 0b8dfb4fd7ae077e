package feed

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// Things come in order, several are made at a time, and never more than allowed wait.
func TestAhead(t *testing.T) {
	var at, most, alive, held atomic.Int64
	broken := errors.New("broken")
	a := Ahead[int64]{Workers: 3, Most: 8, Next: func(k int64) int64 { return k + 2 }, Make: func(k int64) (int64, error) {
		most.Store(max(most.Load(), at.Add(1)))
		held.Store(max(held.Load(), alive.Add(1)))
		defer at.Add(-1)
		time.Sleep(time.Duration(k%5) * time.Millisecond / 5)
		if k == 61 {
			return 0, fmt.Errorf("%d: %w", k, broken)
		}
		return k * k, nil
	}}
	defer a.Close()
	for k := int64(1); k < 61; k += 2 {
		v, err := a.Take(k)
		if err != nil || v != k*k {
			t.Fatal(k, v, err)
		}
		alive.Add(-1)
	}
	if most.Load() != 3 || held.Load() > 8 {
		t.Errorf("%d at a time, %d held", most.Load(), held.Load())
	}
	if _, err := a.Take(61); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if v, err := a.Take(1000); err != nil || v != 1e6 { // elsewhere
		t.Fatal(v, err)
	}
}
