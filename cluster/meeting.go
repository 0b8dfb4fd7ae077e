package cluster

import (
	"cmp"
	"slices"
	"time"
)

// meeting is a gather, a sum or a call of Bring on its way: those that have come to it wait for the others.
type meeting struct {
	what  string // for messages
	alone int    // the rank that waits; -1 = each that has come
	have  []bool // by rank: it has come
	since time.Time
	named time.Time // when those missing were logged
}

// everyRank is meeting.alone where all wait.
const everyRank = -1

func (h *hub) newMeeting(what string, alone int) meeting {
	return meeting{what: what, alone: alone, have: make([]bool, len(h.ranks)), since: time.Now()}
}

// come notes that a rank has come, which is an advance of it. The lock is held.
func (h *hub) come(m *meeting, rank int) {
	if !m.have[rank] {
		m.have[rank] = true
		h.ranks[rank].advanced = time.Now()
		h.change()
	}
}

// waits says whether a rank waits there for others.
func (m *meeting) waits(rank int) bool {
	return m.have[rank] && (m.alone == everyRank || m.alone == rank) && slices.Contains(m.have, false)
}

// meetings are those to which not all have come, the oldest first. The lock is held.
func (h *hub) meetings() (open []*meeting) {
	add := func(m *meeting) {
		if slices.Contains(m.have, false) {
			open = append(open, m)
		}
	}
	for _, g := range h.gathers {
		add(&g.meeting)
	}
	for _, s := range h.sums {
		add(&s.meeting)
	}
	for _, b := range h.brings {
		add(&b.meeting)
	}
	slices.SortFunc(open, func(a, b *meeting) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.what, b.what)) })
	return open
}

func falses(have []bool) (out []int) {
	for i, ok := range have {
		if !ok {
			out = append(out, i)
		}
	}
	return out
}
