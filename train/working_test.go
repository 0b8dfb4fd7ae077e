package train_test

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/train"
)

// A rank tells of every tensor that it saves, so that the others take it for one that works. (That programs are told of, engine's
// TestGroupCompilesOnce tests.)
func TestRankTellsOfWork(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	c, err := configs.Load(with(t, tiny(t), everyKind))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	m, err := cluster.Join(t.Context(), cluster.Place{Nodes: 1, Address: address}, cluster.Options{Secret: []byte("of these tests, and long"), JoinTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := train.Open(t.Context(), c, train.Options{Dir: filepath.Join(t.TempDir(), "run"), Until: "16", Split: true, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler), Cluster: m})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Walk(t.Context()); err != nil {
		t.Fatal(err)
	}
	programs := r.Engine.Compiled().Programs
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		p := m.Peers()[0] // as its last heartbeat told
		if strings.HasPrefix(p.Doing, "saving ") && p.Work > programs+100 {
			return
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("%d programs were compiled; it tells of %d pieces of work, the last %q", programs, p.Work, p.Doing)
		}
	}
}
