package eval

import (
	"context"
	"sync"
	"time"
)

// stopwatch measures how long images take to draw: to encode the prompts, denoise and decode, without what is done with
// them afterwards. The stations that draw overlap, so it counts the time in which any of them is at work; while all of
// them are held back by what comes behind them it stands still. Batches in which programs were compiled do not count.
type stopwatch struct {
	compiled func() int // programs so far
	started  time.Time
	wall     float64 // seconds from the first batch to the last image's numbers

	mu       sync.Mutex
	working  int // stations
	since    time.Time
	busy     float64       // seconds in which a station was at work
	programs int           // compiled when the last batch was drawn, or the first one begun
	first    chan struct{} // closed when the first batch is drawn
	begun    bool          // the first batch is
	counted  float64       // busy when the last batch was drawn, or the first one begun
	seconds  float64       // of batches that count
	images   int
}

func (s *stopwatch) begin(compiled func() int) {
	*s = stopwatch{compiled: compiled, started: time.Now(), programs: compiled(), first: make(chan struct{})}
}

func (s *stopwatch) end() { s.wall = time.Since(s.started).Seconds() }

// clear holds the second batch back until the first one is drawn, if programs were compiled in it: the others are then
// timed from their beginning. It returns false when the line has stopped.
func (s *stopwatch) clear(line context.Context) bool {
	s.mu.Lock()
	wait := s.begun && s.compiled() != s.programs
	s.begun = true
	s.mu.Unlock()
	if !wait {
		return line.Err() == nil
	}
	select {
	case <-s.first:
		return true
	case <-line.Done():
		return false
	}
}

// during counts the time of f as drawing.
func (s *stopwatch) during(f func() error) error {
	s.mu.Lock()
	if s.working++; s.working == 1 {
		s.since = time.Now()
	}
	s.mu.Unlock()
	err := f()
	s.mu.Lock()
	if s.working--; s.working == 0 {
		s.busy += time.Since(s.since).Seconds()
	}
	s.mu.Unlock()
	return err
}

// drawn notes that n more images are.
func (s *stopwatch) drawn(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := s.busy
	if s.working > 0 {
		busy += time.Since(s.since).Seconds()
	}
	if programs := s.compiled(); programs == s.programs {
		s.seconds += busy - s.counted
		s.images += n
	} else {
		s.programs = programs
	}
	s.counted = busy
	select {
	case <-s.first:
	default:
		close(s.first)
	}
}

// share of the time in which images were being drawn: 1 when all else is hidden behind it.
func (s *stopwatch) share() float64 {
	if s.wall == 0 {
		return 0
	}
	return s.busy / s.wall
}

// perImage is in seconds; 0 where every batch had to compile.
func (s *stopwatch) perImage() float64 {
	if s.images == 0 {
		return 0
	}
	return s.seconds / float64(s.images)
}
