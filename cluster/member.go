package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options of a rank. The zero value of a time is its default.
type Options struct {
	Secret      []byte        // of the job, see Secret
	JoinTimeout time.Duration // for all ranks to come; default 15 minutes
	PeerTimeout time.Duration // a rank that is silent for longer is lost; default 30 seconds
	StallTime   time.Duration // a rank that lives, but does not advance for longer while others wait for it, or while none does, is lost; default 30 minutes
	Host        string        // of this process, for messages; "" = as the launcher names it, or Host()
	Log         *slog.Logger  // nil = nowhere

	grace       time.Duration                  // for a connection that closed to come back, and for the last news to reach the ranks; default 5 s
	nameEvery   time.Duration                  // between messages about those that are late; default 10 s
	listenAgain time.Duration                  // see listen
	probe       func(context.Context) *Failure // says who holds rank 0's port, where that is another rank 0
}

// The defaults of Options.
const (
	JoinTimeout = 15 * time.Minute
	PeerTimeout = 30 * time.Second
	StallTime   = 30 * time.Minute // one program may be compiled in it
)

func (o *Options) complete() {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	set(&o.JoinTimeout, JoinTimeout)
	set(&o.PeerTimeout, PeerTimeout)
	set(&o.StallTime, StallTime)
	set(&o.grace, min(5*time.Second, o.PeerTimeout))
	set(&o.nameEvery, 10*time.Second)
	set(&o.listenAgain, listenAgain)
	if o.Host == "" {
		o.Host = Host()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// beatTime is the longest pause between two heartbeats.
func (o *Options) beatTime() time.Duration { return min(time.Second, o.PeerTimeout/5) }

// Member is this process as a rank of a cluster. Its methods may be called from several goroutines.
type Member struct {
	place   Place
	opt     Options
	id      string
	base    string // of rank 0's calls
	http    *http.Client
	session string
	hosts   []string
	hub     *hub // on rank 0

	ctx    context.Context // ends with the *Failure
	cancel context.CancelCauseFunc
	beaten chan struct{} // the heartbeat has ended
	quit   context.CancelFunc

	mu sync.Mutex
	acting
	progress Progress
	sequence map[string]int // of gathers, by name
	sums     int            // messages of sums so far
	brings   int            // calls of Bring
	left     bool           // all ranks were done
}

// Join brings the ranks together: it blocks until all are there and names those that are late. Rank 0 serves.
//
// Errors: a *Failure, or the context's cause.
func Join(ctx context.Context, place Place, opt Options) (*Member, error) {
	return joinAt(ctx, place, opt, nil)
}

// joinAt is Join where rank 0 serves on l; nil = on the place's port.
func joinAt(ctx context.Context, place Place, opt Options, l net.Listener) (_ *Member, err error) {
	if opt.Host == "" && len(place.Hosts) == place.Nodes {
		opt.Host = place.Hosts[place.Rank]
	}
	opt.complete()
	conf, err := credentials(opt.Secret)
	if err != nil {
		return nil, err
	}
	m := &Member{place: place, opt: opt, id: rand.Text(), base: "https://" + place.Address,
		acting: acting{wake: make(chan struct{})}, sequence: map[string]int{}}
	m.http = &http.Client{Transport: &http.Transport{
		DialTLSContext:      dialer(conf, min(shakeTime, opt.listenAgain)),
		MaxIdleConnsPerHost: 16,
	}}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	if place.Rank == 0 {
		if l == nil {
			if l, err = m.listen(ctx); err != nil {
				return nil, err
			}
		}
		if m.hub, err = newHub(l, place, opt); err != nil {
			l.Close()
			return nil, err
		}
		m.base = "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(m.hub.port))
		checking, stop := context.WithCancel(ctx)
		defer stop()
		go m.checkAddress(checking)
	}
	defer func() {
		if err != nil {
			if m.hub != nil {
				m.hub.close()
			}
			m.http.CloseIdleConnections()
		}
	}()
	if err := m.join(ctx); err != nil {
		return nil, err
	}
	beating, quit := context.WithCancel(context.Background())
	m.quit, m.beaten = quit, make(chan struct{})
	go m.beat(beating)
	opt.Log.Info("all ranks are there", "rank", place.Rank, "of", place.Nodes, "rendezvous", place.Address, "launcher", place.Launcher)
	return m, nil
}

// listen is listen, which knows another rank 0 on this machine.
func (m *Member) listen(ctx context.Context) (net.Listener, error) {
	m.opt.probe = func(ctx context.Context) *Failure {
		w, err := m.hello(ctx, m.base)
		if err == nil && w.Failure != nil {
			return w.Failure
		}
		return nil
	}
	return listen(ctx, m.place, m.opt)
}

// checkAddress tells on rank 0 whether the address that the other ranks call leads here, until ctx ends.
func (m *Member) checkAddress(ctx context.Context) {
	address, named := "https://"+m.place.Address, time.Now()
	for {
		var c clock
		short, stop := context.WithTimeout(ctx, answerTime)
		err := m.once(short, address, "GET", "/clock", nil, &c)
		stop()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && c.Session == m.hub.session:
			return
		case err == nil: // another rank 0 serves there: it refuses this one, and all its ranks learn of it
			if w, err := m.hello(ctx, address); err == nil && w.Failure != nil {
				m.hub.mu.Lock()
				m.hub.failed(w.Failure)
				m.hub.mu.Unlock()
				return
			}
		case time.Since(named) > m.opt.nameEvery:
			named = time.Now()
			m.opt.Log.Warn("the rendezvous that the other ranks call does not lead to this rank 0", "address", m.place.Address, "host", m.opt.Host, "error", plain(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// hello asks the rendezvous at base once to let this process in.
func (m *Member) hello(ctx context.Context, base string) (w welcome, err error) {
	ctx, stop := context.WithTimeout(ctx, answerTime)
	defer stop()
	p := m.place
	return w, m.once(ctx, base, "POST", "/join", hello{m.id, p.Rank, p.Nodes, m.opt.Host, os.Getpid(), p.Attempt}, &w)
}

// join asks until all ranks are there.
func (m *Member) join(ctx context.Context) error {
	begun, named := time.Now(), time.Now()
	lost := func(format string, args ...any) error {
		return &Failure{Rank: m.place.Rank, Host: m.opt.Host, Code: CodeLost, Text: fmt.Sprintf(format, args...)}
	}
	answered := false
	var strange time.Time // since when what answers is no rendezvous of this job
	for {
		tried := time.Now()
		w, err := m.hello(ctx, m.base)
		if !errors.Is(err, errOtherSecret) && !refusedByPeer(err) {
			strange = time.Time{}
		} else if strange.IsZero() {
			strange = tried
		}
		late := time.Since(named) > m.opt.nameEvery
		if late {
			named = time.Now()
		}
		waited := time.Since(begun).Round(time.Second)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && w.Failure != nil:
			return w.Failure
		case err == nil && w.Session != "":
			m.session, m.hosts = w.Session, w.Hosts
			return nil
		case err == nil && w.Busy != "":
			if late {
				m.opt.Log.Warn("waiting for the next attempt", "why", w.Busy, "since", waited)
			}
			answered = true
		case err == nil:
			if late && m.hub == nil {
				m.opt.Log.Warn("waiting for "+rankNames(w.Missing, m.hostOf), "since", waited)
			}
			answered = true
			if time.Since(begun) < m.opt.JoinTimeout+answerTime { // rank 0 watches that time
				continue
			}
		case !strange.IsZero() && time.Since(strange) < m.opt.listenAgain: // perhaps the last of another job
		case errors.Is(err, errOtherSecret):
			return &Failure{Rank: m.place.Rank, Host: m.opt.Host, Code: CodeMisplaced,
				Text: fmt.Sprintf("the rendezvous at %s has another secret: give all ranks of a job the same one, and every job its own address", m.place.Address)}
		case refusedByPeer(err):
			return portTaken(m.place, m.hostOf(0), fmt.Sprintf("what answers at %s is no rendezvous of fewstep: %v", m.place.Address, plain(err)))
		case late:
			m.opt.Log.Warn("waiting for rank 0 at "+m.place.Address, "since", waited, "error", plain(err))
		}
		if time.Since(begun) > m.opt.JoinTimeout {
			if answered {
				return lost("rank 0 at %s let it wait for %v", m.place.Address, waited)
			}
			return lost("the rendezvous of rank 0 at %s cannot be reached since %v: %v; is rank 0 running, and is the port open between the nodes?", m.place.Address, waited, plain(err))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(500*time.Millisecond, m.opt.PeerTimeout/5)):
		}
	}
}

func (m *Member) hostOf(rank int) string {
	if rank < len(m.hosts) {
		return m.hosts[rank]
	}
	if rank < len(m.place.Hosts) {
		return m.place.Hosts[rank]
	}
	return ""
}

// beat tells rank 0 that this rank lives, and hears what happens, until ctx ends or the cluster fails.
func (m *Member) beat(ctx context.Context) {
	defer close(m.beaten)
	version := 0
	var silent time.Time // since when rank 0 does not answer
	for ctx.Err() == nil && m.ctx.Err() == nil {
		m.mu.Lock()
		p := m.progress
		p.Begun = m.at.Update
		m.mu.Unlock()
		var n news
		short, stop := context.WithTimeout(ctx, min(answerTime, m.opt.PeerTimeout))
		err := m.once(short, m.base, "POST", "/beat", beat{version, p}, &n)
		stop()
		var f *Failure
		switch {
		case err == nil:
			silent, version = time.Time{}, n.Version
			m.hear(n.Round)
			if n.Failure != nil {
				m.cancel(n.Failure)
			}
			continue
		case errors.As(err, &f):
			m.cancel(f)
			continue
		case silent.IsZero():
			silent = time.Now()
		}
		limit, how := m.opt.PeerTimeout, "does not answer"
		if errors.Is(err, syscall.ECONNREFUSED) { // its machine is there, its process is not
			limit, how = m.opt.grace, "has ended"
		}
		if since := time.Since(silent); since > limit {
			m.cancel(&Failure{Rank: 0, Host: m.hostOf(0), Code: CodeLost, Text: fmt.Sprintf("was lost: it %s since %v: %v", how, since.Round(time.Second), plain(err))})
		}
		select {
		case <-ctx.Done():
		case <-time.After(m.opt.beatTime() / 2):
		}
	}
}

// Rank of this process.
func (m *Member) Rank() int { return m.place.Rank }

// Nodes is the number of ranks.
func (m *Member) Nodes() int { return m.place.Nodes }

// Hosts are the ranks' host names.
func (m *Member) Hosts() []string { return slices.Clone(m.hosts) }

// Session names this start of the cluster; no other has the same name.
func (m *Member) Session() string { return m.session }

// Context ends when the cluster fails; its cause is the *Failure.
func (m *Member) Context() context.Context { return m.ctx }

// Tell sets what the next heartbeats say of this rank. It leaves the number of updates, which Next counts, and Working's count.
func (m *Member) Tell(p Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.Work = m.progress.Work
	m.progress = p
}

// Working tells the other ranks what this one is doing. Long work calls it again and again; otherwise the others, who wait, take
// this rank for one that hangs. "" ends it, and so does the next update.
func (m *Member) Working(doing string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.Doing = doing
	m.progress.Work++
}

// Advance tells the other ranks that work goes on, whatever Working has told that it is.
func (m *Member) Advance() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.Work++
}

// Peers is what the ranks told last; on other ranks than 0 it is nil.
func (m *Member) Peers() []Progress {
	if m.hub == nil {
		return nil
	}
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	out := make([]Progress, len(m.hub.ranks))
	for i := range out {
		out[i] = m.hub.ranks[i].progress
	}
	return out
}

// Fail ends the cluster because of an error of this rank. It returns the failure that all ranks end with: this one, or one
// that came before.
func (m *Member) Fail(code int, err error) *Failure {
	var f *Failure
	if m.ctx.Err() != nil && errors.As(context.Cause(m.ctx), &f) {
		return f
	}
	if !errors.As(err, &f) {
		f = &Failure{Rank: m.place.Rank, Host: m.opt.Host, Code: code, Text: err.Error()}
	}
	ctx, stop := context.WithTimeout(context.Background(), m.opt.grace)
	defer stop()
	var n news
	if m.call(ctx, "POST", "/fail", f, &n) == nil && n.Failure != nil {
		f = n.Failure
	}
	m.cancel(f)
	return f
}

// Leave waits for all ranks to be done. After it none is missed by the others, and there is nobody left to decide with: Leave
// does nothing any more, and Gather fails.
func (m *Member) Leave(ctx context.Context) error {
	if m.hasLeft() {
		return nil
	}
	if _, err := m.Gather(ctx, "the end", nil); err != nil {
		return err
	}
	if err := m.call(ctx, "POST", "/leave", nil, nil); err != nil {
		return err
	}
	m.mu.Lock()
	m.left = true
	m.mu.Unlock()
	m.quit()
	return nil
}

func (m *Member) hasLeft() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left
}

// Close ends this process's part. Rank 0 first waits a few seconds for the others to hear of a failure.
func (m *Member) Close() {
	m.quit()
	<-m.beaten
	if m.hub != nil {
		m.hub.close()
	}
	m.cancel(errors.New("the cluster is closed"))
	m.http.CloseIdleConnections()
}
