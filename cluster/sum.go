package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
)

// mostSummed is how many numbers go into one message of a sum.
const mostSummed = 4 << 20

// Sum adds vectors of one length up over all ranks, in place: every rank has the same bits afterwards, since rank 0 adds in
// the order of ranks. All ranks call it equally often, one call at a time.
//
// It is meant for CPUs and tests: all numbers go through rank 0's process. GPUs add up by XLA's collectives.
//
// Errors: a *Failure, or the context's.
func (m *Member) Sum(ctx context.Context, v []float32) error {
	for len(v) > 0 {
		n := min(len(v), mostSummed)
		if err := m.sum(ctx, v[:n]); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}

func (m *Member) sum(ctx context.Context, v []float32) error {
	m.sums++
	raw := make([]byte, 0, 4*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	for {
		var out []byte
		err := m.call(ctx, "POST", "/sum?number="+strconv.Itoa(m.sums), raw, &out)
		var status *statusError
		switch {
		case errors.As(err, &status) && status.status == http.StatusConflict:
			return m.Fail(CodeError, errors.New(status.text))
		case err != nil:
			return err
		case len(out) == len(raw):
			for i := range v {
				v[i] = math.Float32frombits(binary.LittleEndian.Uint32(out[4*i:]))
			}
			return nil
		}
	}
}

// summing is one message's sum on its way.
type summing struct {
	meeting
	parts [][]byte // by rank
	sum   []byte   // nil until all are there
	read  []bool
}

// numbered reads the number and the body of a rank's call, or answers that they cannot be read.
func numbered(w http.ResponseWriter, r *http.Request) (number int, body []byte, ok bool) {
	number, err := strconv.Atoi(r.URL.Query().Get("number"))
	if err == nil {
		body, err = io.ReadAll(r.Body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return number, body, err == nil
}

// summed takes a rank's part of a sum and answers with the sum, or with nothing where parts are missing yet.
func (h *hub) summed(w http.ResponseWriter, r *http.Request, rank int) {
	number, part, ok := numbered(w, r)
	if !ok {
		return
	}
	h.mu.Lock()
	if before := h.sums[number-1]; before != nil { // who asks for the next one has this
		if before.read[rank] = true; len(falses(before.read)) == 0 {
			delete(h.sums, number-1)
		}
	}
	s := h.sums[number]
	if s == nil {
		s = &summing{meeting: h.newMeeting(fmt.Sprintf("sum %d", number), everyRank), parts: make([][]byte, len(h.ranks)), read: make([]bool, len(h.ranks))}
		h.sums[number] = s
	}
	if s.sum == nil {
		if other := s.take(rank, part); other >= 0 {
			h.mu.Unlock()
			http.Error(w, fmt.Sprintf("sum %d has %d numbers here, and %d on %s: the ranks do not do the same", number, len(part)/4, len(s.parts[other])/4, rankName(other, h.host(other))), http.StatusConflict)
			return
		}
		h.come(&s.meeting, rank)
	}
	h.mu.Unlock()
	h.wait(r.Context(), pollTime, func() bool { return s.sum != nil })
	h.mu.Lock()
	defer h.mu.Unlock()
	w.Write(s.sum)
}

// take takes a rank's part, and adds up where it is the last. It returns a rank whose part has another length, else -1.
func (s *summing) take(rank int, part []byte) (other int) {
	s.parts[rank] = part
	whole := true
	for other, p := range s.parts {
		if p == nil {
			whole = false
		} else if len(p) != len(part) {
			return other
		}
	}
	if !whole {
		return -1
	}
	s.sum = make([]byte, len(part))
	for i := 0; i < len(s.sum); i += 4 {
		total := float32(0)
		for _, part := range s.parts {
			total += math.Float32frombits(binary.LittleEndian.Uint32(part[i:]))
		}
		binary.LittleEndian.PutUint32(s.sum[i:], math.Float32bits(total))
	}
	s.parts = nil
	return -1
}
