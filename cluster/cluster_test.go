package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
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

// A port that a rank cannot connect to is told by the rank that tried.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	closed := freeAddress(t)
	sound(t, together(t, 3, func(m *Member) error {
		if m.Rank() == 1 { // tells of a port at which nobody listens
			if _, err := m.Gather(t.Context(), "addresses", []byte(closed)); err != nil {
				return err
			}
			if _, err := m.Gather(t.Context(), "connections", nil); err != nil {
				return err
			}
			return m.Leave(t.Context())
		}
		failed, err := m.Unreachable(t.Context())
		if err != nil {
			return err
		}
		if len(failed) != 1 || !strings.Contains(failed[0], "rank 1 (node1)") || !strings.Contains(failed[0], closed) {
			t.Errorf("rank %d: %q", m.Rank(), failed)
		}
		return m.Leave(t.Context())
	}))
}

// together joins n ranks and runs f in each; it returns their errors.
func together(t *testing.T, n int, f func(m *Member) error) []error {
	t.Helper()
	return togetherBy(t, n, func(rank int) Options { return quick(rank, nil) }, f)
}

// togetherBy is together with options of each rank.
func togetherBy(t *testing.T, n int, options func(rank int) Options, f func(m *Member) error) []error {
	t.Helper()
	address := freeAddress(t)
	failed := make([]error, n)
	var wg sync.WaitGroup
	for rank := range n {
		wg.Go(func() {
			m, err := Join(t.Context(), Place{Rank: rank, Nodes: n, Address: address}, options(rank))
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
