package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// patient is together with a limit for standing still, and with a log of rank 0.
func patient(t *testing.T, n int, stall time.Duration, log *lines, f func(m *Member) error) []error {
	t.Helper()
	return togetherBy(t, n, func(rank int) Options {
		opt := quick(rank, nil)
		if rank == 0 {
			opt = quick(rank, log)
		}
		opt.StallTime = stall
		return opt
	}, f)
}

// hang waits, as in a call that nothing ends, until this rank hears that the cluster has failed.
func hang(m *Member) error {
	<-m.Context().Done()
	return context.Cause(m.Context())
}

// Whatever a rank hangs in while its heartbeat goes on, and whatever the others wait in: all end, and who is named is the one that
// they wait for, not one that waits itself.
func TestStandsStill(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ranks int
		do    func(t *testing.T, m *Member) error
		says  []string
	}{
		"before a sum": {2, func(t *testing.T, m *Member) error {
			if m.Rank() == 1 {
				return hang(m)
			}
			return m.Sum(t.Context(), make([]float32, 3))
		}, []string{`rank 1 (node1): stands still: it does not come to "sum 1", where others wait for 1s; it is in update 1`}},
		"rank 0 before a sum": {3, func(t *testing.T, m *Member) error {
			if m.Rank() == 0 {
				return hang(m)
			}
			return m.Sum(t.Context(), make([]float32, 3))
		}, []string{`rank 0 (node0): stands still: it does not come to "sum 1"`}},
		"before it hands in": {2, func(t *testing.T, m *Member) error {
			if m.Rank() == 1 {
				m.Working("encoding captions")
				return hang(m)
			}
			_, err := m.Bring(t.Context(), "a part of captions.f32", nil)
			return err
		}, []string{`rank 1 (node1): stands still: it does not come to "a part of captions.f32"`, "it is at encoding captions"}},
		// Rank 2 has handed in and waits for the next part, which rank 0 gives once it has what rank 1 never hands in.
		"a chain of those that wait": {3, func(t *testing.T, m *Member) error {
			if m.Rank() == 1 {
				return hang(m)
			}
			_, err := m.Bring(t.Context(), "a part", nil)
			if err == nil {
				_, err = m.Gather(t.Context(), "the next part", nil)
			}
			return err
		}, []string{`rank 1 (node1): stands still: it does not come to "a part"`}},
		"several": {4, func(t *testing.T, m *Member) error {
			if m.Rank()%2 == 1 {
				return hang(m)
			}
			_, err := m.Gather(t.Context(), "a checkpoint", nil)
			return err
		}, []string{`ranks 1 (node1), 3 (node3) stand still: each does not come to "a checkpoint", where others wait for 1s; ranks 1 (node1), 3 (node3) are in update 1`}},
		// As within a collective of XLA's, which the hub does not see.
		"all": {3, func(t *testing.T, m *Member) error {
			if m.Rank() == 2 {
				m.Working("compiling")
			}
			return hang(m)
		}, []string{"no rank advances for 1s: ranks 0 (node0), 1 (node1) are in update 1, rank 2 (node2) is at compiling"}},
		"each waits for the other": {2, func(t *testing.T, m *Member) error {
			_, err := m.Gather(t.Context(), fmt.Sprint("meeting ", m.Rank()), nil)
			return err
		}, []string{`no rank advances for 1s: rank 0 (node0) is waiting at "meeting 0", rank 1 (node1) is waiting at "meeting 1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			alike(t, patient(t, c.ranks, time.Second, nil, func(m *Member) error {
				if _, err := m.Next(t.Context()); err != nil {
					return err
				}
				return c.do(t, m)
			}), CodeLost, c.says...)
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// A rank that tells of work that goes on is waited for much longer than one that stands still, wherever the others wait; it is
// named meanwhile, and they are not. One that goes on alone when all have left is not missed.
func TestBusyIsNotStill(t *testing.T) {
	t.Parallel()
	const stall = 5 * time.Second // a busy machine may hold a process up for a second
	busy := func(m *Member, tell func(m *Member)) {
		for start := time.Now(); time.Since(start) < stall*8/5; time.Sleep(50 * time.Millisecond) {
			tell(m)
		}
	}
	encoding := func(m *Member) { m.Working("encoding the data set") }
	for name, c := range map[string]struct {
		busy int
		tell func(m *Member)
		meet func(t *testing.T, m *Member) error
		at   string
	}{
		"a sum":                  {1, encoding, func(t *testing.T, m *Member) error { return m.Sum(t.Context(), make([]float32, 3)) }, `"sum 1"`},
		"a sum, rank 0 compiles": {0, (*Member).Advance, func(t *testing.T, m *Member) error { return m.Sum(t.Context(), make([]float32, 3)) }, `"sum 1"`},
		"handing in": {1, encoding, func(t *testing.T, m *Member) error {
			if _, err := m.Bring(t.Context(), "a part", nil); err != nil {
				return err
			}
			_, err := m.Gather(t.Context(), "the next part", nil)
			return err
		}, `"a part"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lines
			sound(t, patient(t, 3, stall, &log, func(m *Member) error {
				if _, err := m.Next(t.Context()); err != nil {
					return err
				}
				if m.Rank() == c.busy {
					busy(m, c.tell)
				}
				return c.meet(t, m)
			}))
			if says := fmt.Sprintf("waiting for rank %d (node%[1]d)\" at=%s", c.busy, c.at); !strings.Contains(log.String(), strings.ReplaceAll(says, `""`, `"`)) {
				t.Errorf("the log does not say %q:\n%s", says, &log)
			}
			if other := fmt.Sprintf("rank %d (", 2); strings.Contains(log.String(), "waiting for "+other) || strings.Contains(log.String(), "is behind") {
				t.Errorf("others are named:\n%s", &log)
			}
		})
	}
	t.Run("all, one after the other", func(t *testing.T) {
		t.Parallel()
		sound(t, patient(t, 2, stall, nil, func(m *Member) error {
			for range 3 {
				if _, err := m.Next(t.Context()); err != nil {
					return err
				}
				time.Sleep(stall * 3 / 5)
			}
			return m.Leave(t.Context())
		}))
	})
	t.Run("after the end", func(t *testing.T) {
		t.Parallel()
		sound(t, patient(t, 2, time.Second, nil, func(m *Member) error {
			if err := m.Leave(t.Context()); err != nil || m.Rank() > 0 {
				return err
			}
			time.Sleep(3 * time.Second)
			m.hub.mu.Lock()
			defer m.hub.mu.Unlock()
			if f := m.hub.news.Failure; f != nil {
				return errors.New("a failure after the end: " + f.Error())
			}
			return nil
		}))
	})
}
