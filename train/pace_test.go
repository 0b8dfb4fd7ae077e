package train

import (
	"testing"
	"time"
)

// Two updates that are read at once have the speed of both, and a compilation at the beginning is soon forgotten.
func TestPace(t *testing.T) {
	var p pace
	if got := p.add(128, 0); got != 0 {
		t.Errorf("an update in no time: %g/s", got)
	}
	p = nil
	p.add(128, 178*time.Second)
	for range 9 {
		p.add(128, 200*time.Millisecond)
	}
	if got := p.add(128, 400*time.Millisecond); got < 500 || got > 700 {
		t.Errorf("%g/s before the last", got)
	}
	if got := p.add(128, time.Microsecond); got < 500 || got > 800 {
		t.Errorf("%g/s of an update that was ready with the one before", got)
	}
	if got := p.add(128, 30*time.Second); got > 5 || len(p) != 1 {
		t.Errorf("%g/s of %d updates after one of 30 seconds", got, len(p))
	}
}
