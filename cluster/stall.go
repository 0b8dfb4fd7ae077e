package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Who stands still while its process lives. A rank advances when it begins an update, comes to a meeting, or tells of work
// that goes on. One that waits for another at a meeting is not to blame; the one that is waited for, and does not wait itself, is.
// On GPUs the ranks wait for each other within XLA's collectives, of which the hub knows nothing: no rank advances then, and
// none is to blame more than the others.

// waiting says of each rank whether it waits for others. The lock is held.
func (h *hub) waiting(open []*meeting) []bool {
	out := make([]bool, len(h.ranks))
	for _, m := range open {
		for rank := range out {
			out[rank] = out[rank] || m.waits(rank)
		}
	}
	return out
}

// findStill ends the cluster where a rank, or all of them, stand still for the stall time. The lock is held.
func (h *hub) findStill(now time.Time, open []*meeting, waiting []bool) {
	still := func(rank int) bool {
		p := &h.ranks[rank]
		return !p.left && now.Sub(p.advanced) > h.opt.StallTime
	}
	for _, m := range open {
		if now.Sub(m.since) <= h.opt.StallTime {
			continue
		}
		blamed := slices.DeleteFunc(falses(m.have), func(rank int) bool { return waiting[rank] || !still(rank) })
		if len(blamed) > 0 {
			h.stalled(blamed, open, "does not come to %q, where others wait for %v", m.what, h.opt.StallTime)
			return
		}
	}
	farthest := h.farthest()
	var behind []int
	nobody, there := true, false
	for rank := range h.ranks {
		p := &h.ranks[rank]
		if p.progress.Begun < farthest && still(rank) && !waiting[rank] {
			behind = append(behind, rank)
		}
		nobody, there = nobody && (p.left || still(rank)), there || !p.left
	}
	switch {
	case len(behind) > 0:
		h.stalled(behind, open, "stays behind for %v while others have begun update %d", h.opt.StallTime, farthest)
	case nobody && there:
		h.failed(&Failure{Rank: -1, Code: CodeLost, Text: fmt.Sprintf("no rank advances for %v: %s", h.opt.StallTime, h.where(open))})
	}
}

// farthest is the last update that any rank has begun. The lock is held.
func (h *hub) farthest() (update int) {
	for i := range h.ranks {
		update = max(update, h.ranks[i].progress.Begun)
	}
	return update
}

// stalled ends the cluster because of ranks that stand still. The lock is held.
func (h *hub) stalled(ranks []int, open []*meeting, format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	if len(ranks) == 1 {
		h.lost(ranks[0], "stands still: it %s; it is %s", why, h.placeOf(ranks[0], open))
		return
	}
	h.failed(&Failure{Rank: -1, Code: CodeLost, Text: fmt.Sprintf("%s stand still: each %s; %s", rankNames(ranks, h.host), why, h.where(open, ranks...))})
}

// placeOf tells where a rank is. The lock is held.
func (h *hub) placeOf(rank int, open []*meeting) string {
	p := h.ranks[rank].progress
	for _, m := range open {
		if m.waits(rank) {
			return fmt.Sprintf("waiting at %q", m.what)
		}
	}
	switch {
	case p.Doing != "":
		return "at " + p.Doing
	case p.Begun > 0:
		return fmt.Sprintf("in update %d", p.Begun)
	}
	return "before the first update"
}

// where tells where ranks are, all that have not left where none are given: those in one place together. The lock is held.
func (h *hub) where(open []*meeting, ranks ...int) string {
	if len(ranks) == 0 {
		for i := range h.ranks {
			if !h.ranks[i].left {
				ranks = append(ranks, i)
			}
		}
	}
	var places []string
	at := map[string][]int{}
	for _, rank := range ranks {
		place := h.placeOf(rank, open)
		if at[place] == nil {
			places = append(places, place)
		}
		at[place] = append(at[place], rank)
	}
	for i, place := range places {
		is := "is"
		if len(at[place]) > 1 {
			is = "are"
		}
		places[i] = fmt.Sprintf("%s %s %s", rankNames(at[place], h.host), is, place)
	}
	return strings.Join(places, ", ")
}

// nameLate tells whom the others wait for, and who is behind. The lock is held.
func (h *hub) nameLate(now time.Time, open []*meeting, waiting []bool) {
	for _, m := range open {
		if now.Sub(m.since) < h.opt.nameEvery || now.Sub(m.named) < h.opt.nameEvery {
			continue
		}
		missing := falses(m.have)
		if late := slices.DeleteFunc(slices.Clone(missing), func(rank int) bool { return waiting[rank] }); len(late) > 0 {
			missing = late
		}
		m.named = now
		var doing []any
		for _, r := range missing[:min(len(missing), 3)] {
			if d := h.ranks[r].progress.Doing; d != "" {
				doing = append(doing, fmt.Sprintf("rank %d", r), d)
			}
		}
		h.opt.Log.Warn("waiting for "+rankNames(missing, h.host), append([]any{"at", m.what, "since", now.Sub(m.since).Round(time.Second)}, doing...)...)
	}
	farthest := h.farthest()
	for i := range h.ranks {
		p := &h.ranks[i]
		stands := now.Sub(p.advanced)
		if p.progress.Begun < farthest && !p.left && !waiting[i] && stands > 3*h.opt.nameEvery && now.Sub(p.behind) > h.opt.nameEvery {
			p.behind = now
			h.opt.Log.Warn(rankName(i, p.Host)+" is behind", "others", fmt.Sprintf("update %d", farthest), "since", stands.Round(time.Second), "it is", h.placeOf(i, open))
		}
	}
}
