package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var secret = []byte("0123456789abcdef")

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// lines is a log that tests read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	for start := time.Now(); !strings.Contains(l.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("the log never says %q:\n%s", text, l)
		}
	}
}

// quick are options for tests: what takes minutes in earnest takes a second.
func quick(rank int, log *lines) Options {
	o := Options{Secret: secret, JoinTimeout: 10 * time.Second, PeerTimeout: 5 * time.Second, Host: fmt.Sprintf("node%d", rank),
		grace: time.Second, nameEvery: 300 * time.Millisecond, listenAgain: time.Second}
	if log != nil {
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	return o
}

// together joins n ranks and runs f in each; it returns their errors.
func together(t *testing.T, n int, f func(m *Member) error) []error {
	t.Helper()
	address := freeAddress(t)
	failed := make([]error, n)
	var wg sync.WaitGroup
	for rank := range n {
		wg.Go(func() {
			m, err := Join(t.Context(), Place{Rank: rank, Nodes: n, Address: address}, quick(rank, nil))
			if err != nil {
				failed[rank] = err
				return
			}
			defer m.Close()
			failed[rank] = f(m)
		})
	}
	wg.Wait()
	return failed
}

func sound(t *testing.T, failed []error) {
	t.Helper()
	for rank, err := range failed {
		if err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// alike checks that all ranks failed in the same way.
func alike(t *testing.T, failed []error, code int, texts ...string) {
	t.Helper()
	for rank, err := range failed {
		var f *Failure
		if !errors.As(err, &f) || f.Code != code {
			t.Errorf("rank %d: %v, want a failure with code %d", rank, err, code)
			continue
		}
		for _, text := range texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("rank %d: %v, want it to say %q", rank, err, text)
			}
		}
	}
}

func TestGather(t *testing.T) {
	t.Parallel()
	sound(t, together(t, 4, func(m *Member) error {
		for round := range 3 {
			all, err := m.Gather(t.Context(), "x", []byte{byte(m.Rank()), byte(round), 0})
			if err != nil {
				return err
			}
			for rank, v := range all {
				if want := []byte{byte(rank), byte(round), 0}; !bytes.Equal(v, want) {
					t.Errorf("round %d, rank %d: %v", round, rank, v)
				}
			}
		}
		if hosts := m.Hosts(); hosts[3] != "node3" {
			t.Errorf("hosts %v", hosts)
		}
		return m.Leave(t.Context())
	}))
}

func TestStore(t *testing.T) {
	t.Parallel()
	value := []byte{0, 255, '"', '\n', 0xc3, 0x28}
	sound(t, together(t, 2, func(m *Member) error {
		s := m.Store("pjrt")
		if m.Rank() == 0 {
			if _, err := s.TryGet(t.Context(), "late"); !errors.Is(err, ErrNotFound) {
				t.Errorf("try of a key that is not there: %v", err)
			}
			ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer stop()
			if _, err := s.Get(ctx, "never"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("get of a key that never comes: %v", err)
			}
			if _, err := m.Gather(t.Context(), "tried", nil); err != nil {
				return err
			}
			if got, err := s.Get(t.Context(), "late"); err != nil || !bytes.Equal(got, value) {
				t.Errorf("got %v, %v", got, err)
			}
			if err := s.Put(t.Context(), "late", []byte("other")); !errors.Is(err, ErrExists) {
				t.Errorf("put of a key that is there: %v", err)
			}
			if _, err := m.Store("other").TryGet(t.Context(), "late"); !errors.Is(err, ErrNotFound) {
				t.Errorf("a key of another store: %v", err)
			}
		} else {
			if _, err := m.Gather(t.Context(), "tried", nil); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
			if err := s.Put(t.Context(), "late", value); err != nil {
				return err
			}
			if err := s.Put(t.Context(), "empty", nil); err != nil {
				return err
			}
			if got, err := s.TryGet(t.Context(), "empty"); err != nil || len(got) != 0 {
				t.Errorf("empty value: %v, %v", got, err)
			}
		}
		return m.Leave(t.Context())
	}))
}

func TestSameNamesWhatDiffers(t *testing.T) {
	t.Parallel()
	failed := together(t, 5, func(m *Member) error {
		if err := m.Same(t.Context(), Fact{"recipe", "aa"}); err != nil {
			return err
		}
		gpus := "8"
		if m.Rank() == 3 {
			gpus = "4"
		}
		return m.Same(t.Context(), Fact{"binary", "b1"}, Fact{"GPUs per node", gpus})
	})
	alike(t, failed, CodeDiffers, "GPUs per node differs: ranks 0-2, 4 have 8, rank 3 (node3) has 4")
	if strings.Contains(failed[0].Error(), "binary") {
		t.Errorf("what is the same is named: %v", failed[0])
	}
}

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
	alike(t, failed, CodeLost, "rank 2 (node2): stands still at update 0 for 2s while others have begun update 1; it is at compiling")
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

// Whoever asks, whenever, however uneven the ranks: all act before the same update, and each update is begun by all or none.
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
				if action == Stop {
					if _, _, why := m.Stopped(); why != "signal" {
						t.Errorf("stopped by %q", why)
					}
					return m.Leave(t.Context())
				}
				if action == None {
					n++
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

func TestStrangers(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	var log lines
	var wg sync.WaitGroup
	wg.Go(func() {
		m, err := Join(t.Context(), Place{Rank: 0, Nodes: 2, Address: address}, quick(0, &log))
		if err != nil {
			t.Error(err)
			return
		}
		if err := m.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		m.Close()
	})
	log.await(t, "waiting for rank 1")

	opt := quick(1, nil)
	opt.Secret = []byte("another job's secret")
	_, err := Join(t.Context(), Place{Rank: 1, Nodes: 2, Address: address}, opt)
	alike(t, []error{err}, CodeMisplaced, "the rendezvous at "+address+" has another secret")
	log.await(t, "a stranger at the rendezvous was refused")

	if _, err := http.Get("http://" + address + "/clock"); err == nil {
		if r, _ := http.Get("http://" + address + "/clock"); r.StatusCode == http.StatusOK {
			t.Error("plain HTTP was answered")
		}
	}
	conf, err := credentials([]byte("guess guess guess"))
	if err != nil {
		t.Fatal(err)
	}
	conf.VerifyConnection = nil // does not mind who answers
	if r, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: conf}}).Get("https://" + address + "/clock"); err == nil {
		t.Errorf("a stranger was answered %v", r.Status)
	}
	if c, err := net.Dial("tcp", address); err != nil { // who says nothing holds nobody up
		t.Error(err)
	} else {
		defer c.Close()
	}
	wg.Go(func() {
		m, err := Join(t.Context(), Place{Rank: 1, Nodes: 2, Address: address}, quick(1, nil))
		if err != nil {
			t.Error(err)
			return
		}
		if err := m.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		m.Close()
	})
	wg.Wait()
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	address := strings.TrimPrefix(other.URL, "http://")
	_, err := Join(t.Context(), Place{Rank: 0, Nodes: 2, Address: address}, quick(0, nil))
	_, port, _ := net.SplitHostPort(address)
	alike(t, []error{err}, CodeError, "rank 0 (node0)", "port "+port+" is in use by another program", "--rendezvous")
	_, err = Join(t.Context(), Place{Rank: 1, Nodes: 2, Address: address}, quick(1, nil))
	alike(t, []error{err}, CodeMisplaced, "no rendezvous of fewstep")
}

// A process of an earlier start is told so.
func TestEarlierSession(t *testing.T) {
	t.Parallel()
	sound(t, together(t, 2, func(m *Member) error {
		if m.Rank() == 1 {
			stale := &Member{place: m.place, opt: m.opt, base: m.base, http: m.http, session: "of yesterday", sequence: map[string]int{}}
			stale.ctx, stale.cancel = context.WithCancelCause(t.Context())
			_, err := stale.Gather(t.Context(), "x", nil)
			alike(t, []error{err}, CodeLost, "belongs to an earlier attempt")
		}
		return m.Leave(t.Context())
	}))
}
