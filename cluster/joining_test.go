package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// misplaced joins ranks at places of the test's making.
func misplaced(t *testing.T, places ...Place) []error {
	t.Helper()
	address := freeAddress(t)
	failed := make([]error, len(places))
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() {
			if p.Address == "" {
				p.Address = address
			}
			m, err := Join(t.Context(), p, quick(i, nil))
			if failed[i] = err; err == nil {
				m.Close()
			}
		})
	}
	wg.Wait()
	return failed
}

func TestWrongRanks(t *testing.T) {
	t.Parallel()
	t.Run("two rank 0s on one host", func(t *testing.T) {
		alike(t, misplaced(t, Place{Rank: 0, Nodes: 2}, Place{Rank: 0, Nodes: 2}), CodeMisplaced, "rank 0", "is there twice: process")
	})
	t.Run("the same rank twice", func(t *testing.T) {
		alike(t, misplaced(t, Place{Rank: 0, Nodes: 3}, Place{Rank: 1, Nodes: 3}, Place{Rank: 1, Nodes: 3}), CodeMisplaced, "rank 1", "is there twice", "node1", "node2")
	})
	t.Run("other counts", func(t *testing.T) {
		alike(t, misplaced(t, Place{Rank: 0, Nodes: 3}, Place{Rank: 1, Nodes: 3}, Place{Rank: 5, Nodes: 8}), CodeMisplaced, "rank 5 (node2)", "there are 8 nodes", "that there are 3")
	})
	t.Run("an earlier attempt", func(t *testing.T) {
		failed := misplaced(t, Place{Rank: 0, Nodes: 2, Attempt: 1}, Place{Rank: 1, Nodes: 2, Attempt: 1}, Place{Rank: 1, Nodes: 2})
		sound(t, failed[:2])
		alike(t, failed[2:], CodeLost, "is of attempt 0, rank 0 is of attempt 1")
	})
}

// A second rank 0 on another host has a port of its own there, and the address leads to the first.
func TestTwoRankZerosOnTwoHosts(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	failed := make([]error, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, failed[0] = Join(t.Context(), Place{Rank: 0, Nodes: 2, Address: address}, quick(0, nil))
	})
	wg.Go(func() {
		l, err := net.Listen("tcp", "127.0.0.1:0") // the other host's
		if err != nil {
			t.Error(err)
			return
		}
		place := Place{Rank: 0, Nodes: 2, Address: "127.0.0.1:" + port}
		opt := quick(1, nil)
		time.Sleep(200 * time.Millisecond)
		_, failed[1] = joinAt(t.Context(), place, opt, l)
	})
	wg.Wait()
	alike(t, failed, CodeMisplaced, "rank 0", "is there twice", "node0", "node1")
}

func TestLateRankIsNamed(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	var log0, log1 lines
	var wg sync.WaitGroup
	join := func(rank int, log *lines) {
		m, err := Join(t.Context(), Place{Rank: rank, Nodes: 3, Address: address, Hosts: []string{"a", "b", "c"}}, quick(rank, log))
		if err != nil {
			t.Error(err)
			return
		}
		if rank == 1 {
			time.Sleep(time.Second)
		}
		if err := m.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		m.Close()
	}
	wg.Go(func() { join(1, &log1) }) // rank 0 itself is late
	log1.await(t, "waiting for rank 0 at "+address)
	wg.Go(func() { join(0, &log0) })
	log0.await(t, "waiting for rank 2 (c)")
	log1.await(t, "waiting for rank 2 (c)")
	wg.Go(func() { join(2, &lines{}) })
	log0.await(t, `waiting for rank 1 (node1)" at="the end"`)
	wg.Wait()
}

func TestRankThatNeverComes(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	opt := quick(0, nil)
	opt.JoinTimeout = 700 * time.Millisecond
	_, err := Join(t.Context(), Place{Rank: 0, Nodes: 2, Address: address}, opt)
	alike(t, []error{err}, CodeLost, "rank 1 did not come within 700ms")
	_, err = Join(t.Context(), Place{Rank: 1, Nodes: 2, Address: address}, opt)
	alike(t, []error{err}, CodeLost, "rendezvous of rank 0 at "+address+" cannot be reached", "connection refused")
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err = Join(ctx, Place{Rank: 1, Nodes: 2, Address: address}, quick(1, nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a join that is given up: %v", err)
	}
}

// A rank that dies while the others still wait may come again.
func TestComesAgainBeforeAllAreThere(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	var log lines
	var wg sync.WaitGroup
	join := func(ctx context.Context, rank int, log *lines) {
		m, err := Join(ctx, Place{Rank: rank, Nodes: 3, Address: address}, quick(rank, log))
		if err != nil {
			if ctx == t.Context() {
				t.Error(err)
			}
			return
		}
		if err := m.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		m.Close()
	}
	wg.Go(func() { join(t.Context(), 0, &log) })
	ctx, kill := context.WithCancel(t.Context())
	wg.Go(func() { join(ctx, 1, nil) })
	log.await(t, "waiting for rank 2")
	kill()
	log.await(t, "rank 1 (node1) went away before all were there")
	wg.Go(func() { join(t.Context(), 2, nil) })
	wg.Go(func() { join(t.Context(), 1, nil) })
	wg.Wait()
}
