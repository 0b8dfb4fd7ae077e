package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// A rank that does not begin an update that others have begun is named, and lost after a while.
func TestBehind(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	var log lines
	failed := make([]error, 3)
	var wg sync.WaitGroup
	for rank := range failed {
		wg.Go(func() {
			opt := quick(rank, &log)
			opt.StallTime = 2 * time.Second
			m, err := Join(t.Context(), Place{Rank: rank, Nodes: 3, Address: address}, opt)
			if err != nil {
				failed[rank] = err
				return
			}
			defer m.Close()
			if rank == 2 {
				m.Tell(Progress{Doing: "compiling"})
			} else if _, err := m.Next(t.Context()); err != nil {
				t.Error(err)
			}
			<-m.Context().Done()
			failed[rank] = context.Cause(m.Context())
		})
	}
	wg.Wait()
	alike(t, failed, CodeLost, "rank 2 (node2): stands still: it stays behind for 2s while others have begun update 1; it is at compiling")
	log.await(t, "rank 2 (node2) is behind")
}

func TestFailureReachesAll(t *testing.T) {
	t.Parallel()
	alike(t, together(t, 3, func(m *Member) error {
		if m.Rank() == 1 {
			return m.Fail(5, errors.New("loss of samples 7, 8 is NaN"))
		}
		_, err := m.Gather(t.Context(), "gradients", nil) // which rank 1 never brings
		return err
	}), 5, "rank 1 (node1): loss of samples 7, 8 is NaN")
}

// Whoever asks, whenever, however uneven the ranks: all act before the same update, or leave it before the same part, and each part
// is begun by all or none.
func TestAgreement(t *testing.T) {
	t.Parallel()
	const ranks = 4
	for seed := range uint64(4) {
		acted := make([][]string, ranks)
		sound(t, together(t, ranks, func(m *Member) error {
			r := rand.New(rand.NewPCG(seed, uint64(m.Rank())))
			pause := time.Duration(1+r.IntN(3000)) * time.Microsecond
			for n := 0; ; {
				if r.IntN(60) == 0 {
					go m.Propose(t.Context(), Save, "time")
				}
				if n > 150 && r.IntN(60) == 0 {
					go m.Propose(t.Context(), Stop, "signal")
				}
				action, err := m.Next(t.Context())
				if err != nil {
					return err
				}
				if action != None {
					acted[m.Rank()] = append(acted[m.Rank()], fmt.Sprintf("%v at %d", action, n))
				}
				if action == Save {
					continue
				}
				if action == Stop {
					if _, _, why := m.Stopped(); why != "signal" {
						t.Errorf("stopped by %q", why)
					}
					return m.Leave(t.Context())
				}
				n++
				time.Sleep(time.Duration(r.Int64N(int64(pause))))
				for part := range n % 4 {
					leave, err := m.Part(t.Context())
					if err != nil {
						return err
					}
					if leave {
						acted[m.Rank()] = append(acted[m.Rank()], fmt.Sprintf("left %d before part %d", n, part))
						return m.Leave(t.Context())
					}
					time.Sleep(time.Duration(r.Int64N(int64(pause))))
				}
			}
		}))
		for rank := range acted {
			if !slices.Equal(acted[rank], acted[0]) {
				t.Fatalf("seed %d: rank %d did %v, rank 0 %v", seed, rank, acted[rank], acted[0])
			}
		}
		if len(acted[0]) < 2 {
			t.Errorf("seed %d: only %v", seed, acted[0])
		}
	}
}

// Ranks that are asked to stop do so at the first place that all of them have before them: in the update under way before its next
// part, or else before the next update, however long an update takes. A rank that waits within an update for another does not keep
// that one from going on.
func TestStopsAtTheNextPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ parts, want int }{"without parts": {0, 1}, "in parts": {3, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			places := make([]int, 3)
			sound(t, together(t, 3, func(m *Member) error {
				work := func() error { // each part ends when all have done it
					if places[m.Rank()]++; places[m.Rank()] == c.want && m.Rank() == 1 {
						if err := m.Propose(t.Context(), Stop, "signal"); err != nil {
							return err
						}
					}
					time.Sleep(time.Duration(m.Rank()) * 200 * time.Millisecond) // so rank 0 waits for the others, and rank 2 comes last
					_, err := m.Gather(t.Context(), "sum", nil)
					return err
				}
				for range 10 {
					if action, err := m.Next(t.Context()); err != nil || action == Stop {
						return errors.Join(err, m.Leave(t.Context()))
					}
					if err := work(); err != nil {
						return err
					}
					for range c.parts {
						if leave, err := m.Part(t.Context()); err != nil || leave {
							return errors.Join(err, m.Leave(t.Context()))
						}
						if err := work(); err != nil {
							return err
						}
					}
				}
				return errors.New("nobody stopped")
			}))
			for rank, n := range places {
				if n != c.want {
					t.Errorf("rank %d has done %d parts, asked to stop in number %d", rank, n, c.want)
				}
			}
		})
	}
}

// A rank that tells of work that goes on may take longer than others wait for one that stands still.
func TestWorking(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	failed := make([]error, 2)
	var wg sync.WaitGroup
	for rank := range failed {
		wg.Go(func() {
			opt := quick(rank, nil)
			opt.StallTime = 5 * time.Second // a busy machine may hold a process up for a second
			m, err := Join(t.Context(), Place{Rank: rank, Nodes: 2, Address: address}, opt)
			if err != nil {
				failed[rank] = err
				return
			}
			defer m.Close()
			if rank == 1 {
				for start := time.Now(); time.Since(start) < 8*time.Second; time.Sleep(50 * time.Millisecond) {
					m.Working("encoding the data set")
				}
			}
			_, failed[rank] = m.Gather(t.Context(), "encodings", nil)
		})
	}
	wg.Wait()
	sound(t, failed)
}
