package cluster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// hub is rank 0's side of the rendezvous.
type hub struct {
	place   Place
	opt     Options
	session string // names this start of the cluster
	server  *http.Server
	port    int

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at every change
	ranks   []peer
	started bool // all have joined
	news    news
	gathers map[string]*gathering
	sums    map[int]*summing
	brings  map[int]*bringing
	given   int // the last call of Bring whose values rank 0 was given
	keys    map[string][]byte
	agreement
	stop context.CancelFunc
	done chan struct{} // the watch has ended
}

// peer is what the hub knows of a rank.
type peer struct {
	hello
	joined   bool
	seen     time.Time // its last call
	gone     time.Time // when its heartbeat's connection closed; zero while it is there
	told     int       // version of the news that it has
	left     bool
	progress Progress
	advanced time.Time // when it began its last update or part of one, came to its last meeting, or told of work that goes on
	behind   time.Time // when it was last named for being behind
}

// gathering collects one value of each rank.
type gathering struct {
	meeting
	values [][]byte
	read   []bool
}

// listenAgain is how long rank 0 waits for a port that the previous attempt's process may still hold.
const listenAgain = 15 * time.Second

// listen opens rank 0's port on all addresses of this machine.
func listen(ctx context.Context, place Place, opt Options) (net.Listener, error) {
	_, port, err := net.SplitHostPort(place.Address)
	if err != nil {
		return nil, fmt.Errorf("rendezvous %q: %w", place.Address, err)
	}
	for start := time.Now(); ; {
		l, err := net.Listen("tcp", net.JoinHostPort("", port))
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, &Failure{Rank: 0, Host: opt.Host, Code: CodeError, Text: fmt.Sprintf("cannot serve the rendezvous: %v", err)}
		}
		if time.Since(start) > opt.listenAgain {
			return nil, portTaken(place, opt.Host, err.Error())
		}
		if other := opt.probe(ctx); other != nil {
			return nil, other
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// portTaken is every rank's failure where rank 0 cannot have the port of the rendezvous: rank 0 alone sees why, the others see
// who answers. host is rank 0's, "" where it is not known.
func portTaken(place Place, host, why string) *Failure {
	at, port, _ := net.SplitHostPort(place.Address)
	if host == "" {
		host = at
	}
	return &Failure{Rank: 0, Host: host, Code: CodeMisplaced,
		Text: fmt.Sprintf("port %s is in use by another program, perhaps another job: choose another with --rendezvous %s:PORT on all ranks (%s)", port, at, why)}
}

func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// newHub serves the rendezvous on l.
func newHub(l net.Listener, place Place, opt Options) (*hub, error) {
	conf, err := credentials(opt.Secret)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &hub{place: place, opt: opt, session: rand.Text(), changed: make(chan struct{}), ranks: make([]peer, place.Nodes),
		gathers: map[string]*gathering{}, sums: map[int]*summing{}, brings: map[int]*bringing{}, keys: map[string][]byte{}, stop: stop, done: make(chan struct{}), port: l.Addr().(*net.TCPAddr).Port}
	for i, host := range place.Hosts {
		h.ranks[i].Host = host
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /join", h.join)
	mux.HandleFunc("GET /clock", h.clock)
	mux.HandleFunc("POST /beat", h.ofRank(h.beat))
	mux.HandleFunc("POST /gather", h.ofRank(h.gather))
	mux.HandleFunc("POST /sum", h.ofRank(h.summed))
	mux.HandleFunc("POST /bring", h.ofRank(h.bring))
	mux.HandleFunc("PUT /key", h.ofRank(h.put))
	mux.HandleFunc("GET /key", h.ofRank(h.get))
	mux.HandleFunc("POST /propose", h.ofRank(h.propose))
	mux.HandleFunc("POST /vote", h.ofRank(h.vote))
	mux.HandleFunc("POST /fail", h.ofRank(h.fail))
	mux.HandleFunc("POST /leave", h.ofRank(h.leave))
	h.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(&strangers{log: opt.Log, named: map[string]time.Time{}}, "", 0),
	}
	go h.server.Serve(tls.NewListener(l, conf))
	go h.watch(ctx)
	return h, nil
}

// close stops serving, after it has waited a little for the ranks that have not left, or do not know of the failure yet: where
// it came before all had joined, also for those that are to come.
func (h *hub) close() {
	limit := time.Now().Add(h.opt.grace)
	h.wait(context.Background(), time.Until(limit), func() bool {
		for i := range h.ranks {
			p := &h.ranks[i]
			there := i != 0 && p.joined && !p.left && p.gone.IsZero() && time.Since(p.seen) < answerTime
			if late := i != 0 && !p.joined && !h.started && h.news.Failure != nil; late || there && (h.news.Failure == nil || p.told < h.news.Version) {
				return false
			}
		}
		return true
	})
	h.stop()
	<-h.done
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if h.server.Shutdown(ctx) != nil { // lets answers under way reach their ranks
		h.server.Close()
	}
}

// wait blocks until ready, which is called with the lock held, or the time is over, or ctx has ended. It reports ready.
func (h *hub) wait(ctx context.Context, limit time.Duration, ready func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		h.mu.Lock()
		ok, changed := ready(), h.changed
		h.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// change wakes all that wait. The lock is held.
func (h *hub) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// tell changes the news. The lock is held.
func (h *hub) tell() {
	h.news.Version++
	h.change()
}

// failed ends the cluster; the first failure stays. The lock is held.
func (h *hub) failed(f *Failure) {
	if h.news.Failure == nil {
		h.news.Failure = f
		h.tell()
	}
}

func (h *hub) host(rank int) string { return h.ranks[rank].Host }

// lost ends the cluster because of one rank. The lock is held.
func (h *hub) lost(rank int, format string, args ...any) {
	h.failed(&Failure{Rank: rank, Host: h.host(rank), Code: CodeLost, Text: fmt.Sprintf(format, args...)})
}

// ofRank gives a call that a rank of this session makes; others are answered 410.
func (h *hub) ofRank(call func(w http.ResponseWriter, r *http.Request, rank int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rank, err := strconv.Atoi(r.Header.Get(rankHeader))
		if err != nil || rank < 0 || rank >= len(h.ranks) || r.Header.Get(sessionHeader) != h.session {
			w.WriteHeader(http.StatusGone)
			reply(w, &Failure{Rank: 0, Host: h.opt.Host, Code: CodeLost, Text: "was started again meanwhile: this process belongs to an earlier attempt"})
			return
		}
		h.mu.Lock()
		h.ranks[rank].seen, h.ranks[rank].gone = time.Now(), time.Time{}
		h.mu.Unlock()
		r.Body = http.MaxBytesReader(w, r.Body, mostContent)
		call(w, r, rank)
	}
}

func reply(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }

// read decodes a request; where it cannot, it answers.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// beat takes a rank's progress and answers with news, at once where there are some.
func (h *hub) beat(w http.ResponseWriter, r *http.Request, rank int) {
	var b beat
	if !read(w, r, &b) {
		return
	}
	h.mu.Lock()
	p := &h.ranks[rank]
	if b.Progress.Begun != p.progress.Begun || b.Progress.Work != p.progress.Work {
		p.advanced = time.Now()
	}
	p.progress = b.Progress
	if p.told != b.Version {
		p.told = b.Version
		h.settle()
		h.change()
	}
	h.mu.Unlock()
	h.wait(r.Context(), h.opt.beatTime(), func() bool { return h.news.Version > b.Version })
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Context().Err() != nil && !h.ranks[rank].left {
		h.ranks[rank].gone = time.Now()
		h.change()
		return
	}
	p.seen = time.Now()
	reply(w, h.news)
	if h.news.Failure != nil { // the rank's last call
		p.told = h.news.Version
		h.change()
	}
}

// gather takes a rank's value and answers with those of all, once they are there.
func (h *hub) gather(w http.ResponseWriter, r *http.Request, rank int) {
	name := r.URL.Query().Get("name")
	value, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := len(h.ranks)
	h.mu.Lock()
	g := h.gathers[name]
	if g == nil {
		g = &gathering{meeting: h.newMeeting(name, everyRank), values: make([][]byte, n), read: make([]bool, n)}
		h.gathers[name] = g
	}
	if !g.have[rank] {
		g.values[rank] = value
		h.come(&g.meeting, rank)
	}
	h.mu.Unlock()
	h.wait(r.Context(), pollTime, func() bool { return !slices.Contains(g.have, false) })
	h.mu.Lock()
	defer h.mu.Unlock()
	if missing := falses(g.have); len(missing) > 0 {
		reply(w, gathered{Missing: missing})
		return
	}
	reply(w, gathered{Values: g.values})
	g.read[rank] = true
}

func (h *hub) fail(w http.ResponseWriter, r *http.Request, rank int) {
	var f Failure
	if !read(w, r, &f) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed(&f)
	reply(w, h.news)
}

// leave is a rank's last call; all of them have agreed on leaving.
func (h *hub) leave(w http.ResponseWriter, _ *http.Request, rank int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ranks[rank].left = true
	h.change()
	reply(w, struct{}{})
}

// clock answers with rank 0's time; who asks for it also learns that this is a rendezvous of the job.
func (h *hub) clock(w http.ResponseWriter, _ *http.Request) {
	reply(w, clock{Session: h.session, Time: time.Now()})
}

// strangers tells of connections that were refused, each address once in a while. It is written to by http.Server.
type strangers struct {
	log   *slog.Logger
	mu    sync.Mutex
	named map[string]time.Time
}

const strangerAgain = time.Minute

func (s *strangers) Write(line []byte) (int, error) {
	// "http: TLS handshake error from 10.0.0.7:41234: it has another secret"
	_, rest, ok := strings.Cut(string(line), "TLS handshake error from ")
	if !ok {
		s.log.Debug("rendezvous: " + strings.TrimSpace(string(line)))
		return len(line), nil
	}
	address, why, _ := strings.Cut(strings.TrimSpace(rest), ": ")
	host := hostOf(address)
	s.mu.Lock()
	again := time.Since(s.named[host]) < strangerAgain
	if !again && len(s.named) < 1000 {
		s.named[host] = time.Now()
	}
	s.mu.Unlock()
	if !again {
		s.log.Warn("a stranger at the rendezvous was refused", "address", address, "why", why)
	}
	return len(line), nil
}
