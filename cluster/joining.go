package cluster

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// join takes a process in, or says why not. It answers once all are there.
func (h *hub) join(w http.ResponseWriter, r *http.Request) {
	var from hello
	if !read(w, r, &from) {
		return
	}
	h.mu.Lock()
	if answer := h.admit(from); answer != nil {
		h.mu.Unlock()
		reply(w, answer)
		return
	}
	h.mu.Unlock()
	h.wait(r.Context(), pollTime, func() bool {
		return h.started || h.news.Failure != nil || h.ranks[from.Rank].ID != from.ID
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &h.ranks[from.Rank]
	switch {
	case p.ID != from.ID:
		reply(w, welcome{Busy: "another process has taken the rank over"})
		return
	case r.Context().Err() != nil:
		if !h.started {
			p.gone = time.Now()
		}
		return
	}
	p.seen = time.Now()
	switch {
	case h.news.Failure != nil:
		p.told = h.news.Version
		reply(w, welcome{Failure: h.news.Failure})
	case h.started:
		hosts := make([]string, len(h.ranks))
		for i := range hosts {
			hosts[i] = h.host(i)
		}
		reply(w, welcome{Session: h.session, Hosts: hosts})
	default:
		reply(w, welcome{Missing: h.missing()})
	}
}

// admit enters a process as a rank, or answers why not. The lock is held.
func (h *hub) admit(from hello) *welcome {
	refuse := func(format string, args ...any) *welcome {
		f := &Failure{Rank: from.Rank, Host: from.Host, Code: CodeMisplaced, Text: fmt.Sprintf(format, args...)}
		if !h.started { // what runs is not disturbed by who comes late
			h.failed(f)
		}
		return &welcome{Failure: f}
	}
	switch {
	case from.Attempt < h.place.Attempt:
		return &welcome{Failure: &Failure{Rank: from.Rank, Host: from.Host, Code: CodeLost,
			Text: fmt.Sprintf("is of attempt %d, rank 0 is of attempt %d already", from.Attempt, h.place.Attempt)}}
	case from.Attempt > h.place.Attempt:
		return &welcome{Busy: fmt.Sprintf("rank 0 is of attempt %d, this process of attempt %d", h.place.Attempt, from.Attempt)}
	case from.Nodes != len(h.ranks):
		return refuse("says that there are %d nodes, rank 0 (%s) that there are %d: start all ranks with the same number", from.Nodes, h.opt.Host, len(h.ranks))
	case from.Rank < 0 || from.Rank >= len(h.ranks):
		return refuse("ranks are 0 to %d", len(h.ranks)-1)
	}
	p := &h.ranks[from.Rank]
	if p.joined && p.ID != from.ID {
		alive := p.gone.IsZero() && time.Since(p.seen) < answerTime
		switch {
		case h.news.Failure != nil:
			return &welcome{Busy: "the attempt before has not ended yet"}
		case alive:
			return refuse("is there twice: process %d on %s and process %d on %s; give every process a rank of its own", p.PID, p.Host, from.PID, from.Host)
		case h.started:
			return &welcome{Busy: rankName(from.Rank, p.Host) + " was lost, and the others have not ended yet"}
		}
	}
	if !p.joined {
		h.opt.Log.Debug("joined", "rank", from.Rank, "host", from.Host)
	}
	p.hello, p.joined, p.seen, p.gone = from, true, time.Now(), time.Time{}
	if !h.started && h.news.Failure == nil && len(h.missing()) == 0 {
		h.started = true
		for i := range h.ranks {
			h.ranks[i].advanced = time.Now()
		}
		h.change()
	}
	return nil
}

// missing lists the ranks that have not joined. The lock is held.
func (h *hub) missing() (out []int) {
	for i := range h.ranks {
		if !h.ranks[i].joined {
			out = append(out, i)
		}
	}
	return out
}

// watch finds ranks that are lost and names those that are late, until ctx ends.
func (h *hub) watch(ctx context.Context) {
	defer close(h.done)
	const tick = 250 * time.Millisecond
	begun, last, named := time.Now(), time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(tick):
		}
		now := time.Now()
		h.mu.Lock()
		if paused := now.Sub(last); paused > 4*tick { // this process stood still, which is no fault of the others
			for i := range h.ranks {
				h.ranks[i].seen, h.ranks[i].advanced = h.ranks[i].seen.Add(paused), h.ranks[i].advanced.Add(paused)
			}
		}
		last = now
		switch {
		case h.news.Failure != nil:
		case h.started:
			h.findLost(now)
			h.forgetGathers(now)
			open := h.meetings()
			waiting := h.waiting(open)
			h.findStill(now, open, waiting)
			h.nameLate(now, open, waiting)
		default:
			h.forget(now)
			missing := h.missing()
			if now.Sub(begun) > h.opt.JoinTimeout {
				h.failed(&Failure{Rank: -1, Code: CodeLost, Text: fmt.Sprintf("%s did not come within %v", rankNames(missing, h.host), h.opt.JoinTimeout)})
			} else if now.Sub(named) > h.opt.nameEvery {
				named = now
				h.opt.Log.Warn("waiting for "+rankNames(missing, h.host), "there", len(h.ranks)-len(missing), "of", len(h.ranks), "since", now.Sub(begun).Round(time.Second))
			}
		}
		h.mu.Unlock()
	}
}

// forget lets go of processes that joined and went away before all were there. The lock is held.
func (h *hub) forget(now time.Time) {
	for i := range h.ranks {
		p := &h.ranks[i]
		if p.joined && (!p.gone.IsZero() && now.Sub(p.gone) > h.opt.grace || now.Sub(p.seen) > h.opt.PeerTimeout+pollTime) {
			h.opt.Log.Warn(rankName(i, p.Host)+" went away before all were there", "process", p.PID)
			p.joined, p.gone = false, time.Time{}
		}
	}
}

// findLost ends the cluster where a rank is silent. The lock is held.
func (h *hub) findLost(now time.Time) {
	for i := range h.ranks {
		p := &h.ranks[i]
		switch {
		case p.left:
		case !p.gone.IsZero() && now.Sub(p.gone) > h.opt.grace:
			h.lost(i, "was lost: its connection closed at update %d and it did not come back within %v", p.progress.Begun, h.opt.grace)
		case now.Sub(p.seen) > h.opt.PeerTimeout:
			h.lost(i, "was lost: no heartbeat for %v, the last at update %d", h.opt.PeerTimeout, p.progress.Begun)
		}
	}
}

// forgetGathers lets go of values that all have read. The lock is held.
func (h *hub) forgetGathers(now time.Time) {
	for name, g := range h.gathers {
		// An answer may have been lost on its way: its rank asks again.
		if len(falses(g.read)) == 0 && now.Sub(g.since) > time.Minute {
			delete(h.gathers, name)
		}
	}
}
