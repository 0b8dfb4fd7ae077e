package cluster

import (
	"context"
	"net/http"
)

// Action is what all ranks do before the same update.
type Action int

const (
	None Action = iota
	Save        // a checkpoint
	Stop        // a checkpoint, and the end of the process
)

func (a Action) String() string { return [...]string{"nothing", "save", "stop"}[a] }

// How ranks agree on an action. A rank proposes it; the hub chooses an update that no rank has begun by what it knows and
// asks all ranks whether they can still wait before that update (a round). Each that has not begun it says yes, and from
// then on does not begin it before the round is decided; one that has says no and how far it is. When all have said yes the
// round is decided and every rank acts before that update. After a no there is another round, for a later update. An update
// never waits unless a rank reaches the round's own before the answers are in, which take a few milliseconds.

// round is a proposal under way, or the last that was decided.
type round struct {
	proposal
	ID      int    `json:"id"`
	Rank    int    `json:"rank"` // that proposed
	Host    string `json:"host"`
	Update  int    `json:"update"` // the number of updates begun before the action
	Decided bool   `json:"decided"`
}

// agreement is the hub's part. A round that is decided stays the hub's current one until all ranks have seen that.
type agreement struct {
	next  *round // proposed, while a round is under way
	votes []*vote
	ahead int // updates between the farthest rank and the round's
}

func (h *hub) propose(w http.ResponseWriter, r *http.Request, rank int) {
	var p proposal
	if !read(w, r, &p) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	reply(w, struct{}{})
	now := h.news.Round
	if p.Action != Save && p.Action != Stop || h.news.Failure != nil ||
		now != nil && (now.Action == Stop || !now.Decided && now.Action >= p.Action) || h.next != nil && h.next.Action >= p.Action {
		return
	}
	h.next = &round{proposal: p, Rank: rank, Host: h.host(rank)}
	h.settle()
}

func (h *hub) vote(w http.ResponseWriter, r *http.Request, rank int) {
	var v vote
	if !read(w, r, &v) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	reply(w, struct{}{})
	if now := h.news.Round; now != nil && !now.Decided && now.ID == v.Round {
		h.votes[rank] = &v
		h.settle()
	}
}

// settle takes the agreement as far as it goes. The lock is held.
func (h *hub) settle() {
	now := h.news.Round
	if now != nil && !now.Decided {
		farthest, yes := 0, true
		for _, v := range h.votes {
			if v == nil {
				return
			}
			farthest, yes = max(farthest, v.Begun), yes && v.Yes
		}
		decided := *now
		if yes {
			decided.Decided = true
		} else {
			h.ahead *= 2
			decided.ID++
			decided.Update = farthest + h.ahead
			clear(h.votes)
		}
		h.news.Round = &decided
		h.tell()
		return
	}
	if h.next == nil {
		return
	}
	id, farthest := 1, 0
	if now != nil {
		id, farthest = now.ID+1, now.Update // one action at an update
	}
	for i := range h.ranks {
		if p := &h.ranks[i]; now != nil && p.told < h.news.Version {
			return // it may not know yet that the last round is decided
		}
		farthest = max(farthest, h.ranks[i].progress.Begun)
	}
	h.ahead = 2
	h.votes = make([]*vote, len(h.ranks))
	h.next.ID, h.next.Update = id, farthest+h.ahead
	h.news.Round, h.next = h.next, nil
	h.tell()
}

// acting is a member's part.
type acting struct {
	begun   int            // updates
	held    *round         // voted yes for, not decided
	agreed  map[int]*round // decided and not done yet, by update
	decided int            // ID of the last round that was seen decided
	wake    chan struct{}  // closed and made anew when something here changes
	stopped *round         // the stop that was decided
	stop    chan struct{}  // closed with it
}

// Next is called before every update, by all ranks equally often. It answers what all of them do before this update: Save
// asks for a checkpoint and another call of Next; Stop for a checkpoint and the end. None begins the update; in a cluster of
// one the answer is as with many. It returns at once unless a decision is due within this update.
//
// Errors: a *Failure, or the context's.
func (m *Member) Next(ctx context.Context) (Action, error) {
	for {
		if err := m.err(ctx); err != nil {
			return None, err
		}
		m.mu.Lock()
		if r := m.agreed[m.begun]; r != nil {
			delete(m.agreed, m.begun)
			m.mu.Unlock()
			return r.Action, nil
		}
		if m.held == nil || m.held.Update != m.begun {
			m.begun++
			m.progress.Doing = ""
			m.mu.Unlock()
			return None, nil
		}
		wake := m.wake
		m.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		case <-m.ctx.Done():
		}
	}
}

// Stopping is closed once it is agreed that all ranks stop, at an update that may still be to come.
func (m *Member) Stopping() <-chan struct{} { return m.stop }

// Stopped tells who asked for the stop that was agreed on, and why.
func (m *Member) Stopped() (rank int, host, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped == nil {
		return -1, "", ""
	}
	return m.stopped.Rank, m.stopped.Host, m.stopped.Why
}

// Propose asks all ranks to save or to stop. It returns once rank 0 knows; Next gives the answer. A second proposal of an action
// that is agreed on already changes nothing.
func (m *Member) Propose(ctx context.Context, a Action, why string) error {
	return m.call(ctx, "POST", "/propose", proposal{a, why}, nil)
}

// hear is told of the newest round.
func (m *Member) hear(r *round) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r == nil || r.ID <= m.decided || m.held != nil && (r.ID < m.held.ID || r.ID == m.held.ID && !r.Decided) {
		return
	}
	m.held = nil
	if r.Decided {
		m.decided = r.ID
		m.agreed[r.Update] = r
		if r.Action == Stop && m.stopped == nil {
			m.stopped = r
			close(m.stop)
		}
	} else {
		v := vote{Round: r.ID, Begun: m.begun, Yes: m.begun <= r.Update}
		if v.Yes {
			m.held = r
		}
		go m.call(m.ctx, "POST", "/vote", v, nil)
	}
	close(m.wake)
	m.wake = make(chan struct{})
}
