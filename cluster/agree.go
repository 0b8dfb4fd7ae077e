package cluster

import (
	"context"
	"net/http"
	"slices"
)

// Action is what all ranks do before the same update.
type Action int

const (
	None Action = iota
	Save        // a checkpoint
	Stop        // a checkpoint, and the end of the process
)

func (a Action) String() string { return [...]string{"nothing", "save", "stop"}[a] }

// How ranks agree on an action. A rank proposes it, and the hub asks all ranks how far they are (a round). Each tells it and begins
// nothing more before the round is decided: all act where the farthest is. That is the next place at which every rank can; nobody
// waits longer for it than the answers take, a few milliseconds. Answers are given beside training, so that a rank which waits
// within an update for another, which is held before it, waits no longer either.

// position is how far a rank is: updates that it has begun, and parts of the last one, see Part.
type position struct {
	Update int `json:"update"`
	Part   int `json:"part,omitempty"`
}

func (p position) before(q position) bool {
	return p.Update < q.Update || p.Update == q.Update && p.Part < q.Part
}

// round is a proposal under way, or the last that was decided.
type round struct {
	proposal
	ID      int      `json:"id"`
	Rank    int      `json:"rank"` // that proposed
	Host    string   `json:"host"`
	Decided bool     `json:"decided"`
	At      position `json:"at"` // what all ranks have begun before the action, once it is decided
}

// agreement is the hub's part. A round that is decided stays the hub's current one until all ranks have seen that.
type agreement struct {
	next  *round // proposed, while a round is under way
	votes []*vote
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
		decided := *now
		for _, v := range h.votes {
			if v == nil {
				return
			}
			if decided.At.before(v.At) {
				decided.At = v.At
			}
		}
		decided.Decided = true
		h.news.Round = &decided
		h.tell()
		return
	}
	if h.next == nil {
		return
	}
	h.next.ID = 1
	if now != nil {
		for i := range h.ranks {
			if h.ranks[i].told < h.news.Version {
				return // it may not know yet that the last round is decided
			}
		}
		h.next.ID = now.ID + 1
	}
	h.votes = make([]*vote, len(h.ranks))
	h.news.Round, h.next = h.next, nil
	h.tell()
}

// acting is a member's part.
type acting struct {
	at      position      // what was begun
	held    *round        // told of, not decided
	agreed  []*round      // decided and not done yet, oldest first, and so earliest first
	decided int           // ID of the last round that was seen decided
	wake    chan struct{} // closed and made anew when something here changes
	stopped *round        // the stop that was decided
}

// Next is called before every update, by all ranks equally often. It answers what all of them do before this update: Save
// asks for a checkpoint and another call of Next; Stop for a checkpoint and the end. None begins the update; in a cluster of
// one the answer is as with many. It returns at once unless a decision is due.
//
// Errors: a *Failure, or the context's.
func (m *Member) Next(ctx context.Context) (action Action, err error) {
	err = m.pass(ctx, func() {
		if len(m.agreed) > 0 && !m.at.before(m.agreed[0].At) {
			action = m.agreed[0].Action
			m.agreed = m.agreed[1:]
			return
		}
		m.at = position{Update: m.at.Update + 1}
		m.progress.Doing = ""
	})
	return action, err
}

// Part is called within an update before everything that it can be left at, by all ranks equally often. It says whether all ranks
// leave the update there, to stop: what they have done of it is dropped, and Next is not called any more. A checkpoint that is
// asked for waits for the update's end.
//
// Errors: as Next's.
func (m *Member) Part(ctx context.Context) (leave bool, err error) {
	err = m.pass(ctx, func() {
		leave = slices.ContainsFunc(m.agreed, func(r *round) bool { return r.Action == Stop && !m.at.before(r.At) })
		if !leave {
			m.at.Part++
			m.progress.Work++
		}
	})
	return leave, err
}

// pass calls f, with the lock held, once no round is under way.
func (m *Member) pass(ctx context.Context, f func()) error {
	for {
		if err := m.err(ctx); err != nil {
			return err
		}
		m.mu.Lock()
		if m.held == nil {
			f()
			m.mu.Unlock()
			return nil
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
	if r == nil || r.ID <= m.decided || m.held != nil && m.held.ID == r.ID && !r.Decided {
		return
	}
	if r.Decided {
		m.held, m.decided = nil, r.ID
		m.agreed = append(m.agreed, r)
		if r.Action == Stop && m.stopped == nil {
			m.stopped = r
		}
	} else {
		m.held = r
		go m.call(m.ctx, "POST", "/vote", vote{r.ID, m.at}, nil)
	}
	close(m.wake)
	m.wake = make(chan struct{})
}
