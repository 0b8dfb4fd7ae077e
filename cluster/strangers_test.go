package cluster

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

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

// Where another program has the port, each rank says so by itself, soon, and with one code: rank 0 cannot tell the others.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(page.Close)
	for _, c := range []struct {
		what, address, why string
	}{
		{"a web server", strings.TrimPrefix(page.URL, "http://"), "is no rendezvous of fewstep"},
		{"who says nothing", taken(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "says nothing"},
		{"who closes", taken(t, func(c net.Conn) {}), "closes the connection"},
		{"who greets", taken(t, func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x\r\n")) }), "is no rendezvous of fewstep"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			_, port, _ := net.SplitHostPort(c.address)
			sentence := "port " + port + " is in use by another program, perhaps another job: choose another with --rendezvous 127.0.0.1:PORT on all ranks"
			_, err := Join(t.Context(), Place{Rank: 0, Nodes: 2, Address: c.address}, quick(0, nil))
			alike(t, []error{err}, CodeMisplaced, "rank 0 (node0)", sentence, "address already in use")
			begun := time.Now()
			opt := quick(1, nil)
			opt.JoinTimeout = time.Minute
			_, err = Join(t.Context(), Place{Rank: 1, Nodes: 2, Address: c.address, Hosts: []string{"node0", "node1"}}, opt)
			alike(t, []error{err}, CodeMisplaced, "rank 0 (node0)", sentence, c.why)
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("found out after %v", took)
			}
		})
	}
}

// taken is an address at which connections are given to serve, and closed.
func taken(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				serve(c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
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
