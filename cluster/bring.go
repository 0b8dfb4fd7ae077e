package cluster

import (
	"context"
	"net/http"
	"slices"
	"strconv"
)

// Bring gives rank 0 what every rank hands in, by rank; others get nil, as soon as rank 0's process has theirs. All ranks call
// it equally often, one call at a time. It is for values that are too large to be given to all, as Gather does.
//
// Errors: a *Failure, or the context's.
func (m *Member) Bring(ctx context.Context, value []byte) ([][]byte, error) {
	m.brings++
	if m.hub == nil {
		return nil, m.call(ctx, "POST", "/bring?number="+strconv.Itoa(m.brings), value, nil)
	}
	m.hub.take(m.brings, m.Rank(), value)
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
	values [][]byte
	have   []bool
}

// bring takes a rank's value.
func (h *hub) bring(w http.ResponseWriter, r *http.Request, rank int) {
	number, value, ok := numbered(w, r)
	if !ok {
		return
	}
	h.take(number, rank, value)
	reply(w, struct{}{})
}

func (h *hub) take(number, rank int, value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if number <= h.given { // a call that was answered and is made again, for the answer was lost
		return
	}
	b := h.brings[number]
	if b == nil {
		b = &bringing{values: make([][]byte, len(h.ranks)), have: make([]bool, len(h.ranks))}
		h.brings[number] = b
	}
	b.values[rank], b.have[rank] = value, true
	h.change()
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
