package cluster

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
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
