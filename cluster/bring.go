package cluster

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// Bring gives rank 0 what every rank hands in, by rank; others get nil, as soon as rank 0's process has theirs. All ranks call
// it equally often, one call at a time. It is for values that are too large to be given to all, as Gather does. A message about a
// rank that rank 0 waits for gives the name.
//
// Errors: a *Failure, or the context's.
func (m *Member) Bring(ctx context.Context, name string, value []byte) ([][]byte, error) {
	m.brings++
	if m.hub == nil {
		return nil, m.call(ctx, "POST", "/bring?number="+strconv.Itoa(m.brings)+"&name="+url.QueryEscape(name), value, nil)
	}
	m.hub.take(m.brings, name, m.Rank(), value)
	for {
		if values := m.hub.brought(ctx, m.brings); values != nil {
			return values, nil
		}
		if err := m.err(ctx); err != nil {
			return nil, err
		}
	}
}

// bringing collects the values of one call of Bring.
type bringing struct {
	meeting
	values [][]byte
}

// bring takes a rank's value.
func (h *hub) bring(w http.ResponseWriter, r *http.Request, rank int) {
	number, value, ok := numbered(w, r)
	if !ok {
		return
	}
	h.take(number, r.URL.Query().Get("name"), rank, value)
	reply(w, struct{}{})
}

func (h *hub) take(number int, name string, rank int, value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if number <= h.given { // a call that was answered and is made again, for the answer was lost
		return
	}
	b := h.brings[number]
	if b == nil {
		b = &bringing{meeting: h.newMeeting(name, 0), values: make([][]byte, len(h.ranks))}
		h.brings[number] = b
	}
	b.values[rank] = value
	h.come(&b.meeting, rank)
}

// brought waits for a while for the values of all ranks, and forgets them; nil = some are missing yet.
func (h *hub) brought(ctx context.Context, number int) [][]byte {
	if !h.wait(ctx, pollTime, func() bool { return !slices.Contains(h.brings[number].have, false) }) {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	values := h.brings[number].values
	delete(h.brings, number)
	h.given = number
	return values
}
