package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// Rank 0 gets what all hand in, call by call, and keeps nothing of it.
func TestBring(t *testing.T) {
	t.Parallel()
	const n = 3
	value := func(rank, call int) []byte { return bytes.Repeat([]byte{byte(10*rank + call)}, rank*call*1000) }
	sound(t, together(t, n, func(m *Member) error {
		for call := range 4 {
			got, err := m.Bring(t.Context(), "parts", value(m.Rank(), call))
			if err != nil {
				return err
			}
			if m.Rank() > 0 {
				if got != nil {
					return fmt.Errorf("rank %d was given %d values", m.Rank(), len(got))
				}
				continue
			}
			for rank := range n {
				if !bytes.Equal(got[rank], value(rank, call)) {
					return fmt.Errorf("call %d: rank %d handed in %d bytes, %d came", call, rank, len(value(rank, call)), len(got[rank]))
				}
			}
		}
		if m.hub != nil && len(m.hub.brings) > 0 {
			return fmt.Errorf("%d calls are kept", len(m.hub.brings))
		}
		return nil
	}))
}

// A rank that fails ends the wait for what it does not hand in.
func TestBringOfFailedRank(t *testing.T) {
	t.Parallel()
	alike(t, together(t, 2, func(m *Member) error {
		if m.Rank() == 1 {
			return m.Fail(CodeError, errors.New("no such image"))
		}
		_, err := m.Bring(t.Context(), "parts", nil)
		return err
	}), CodeError, "rank 1 (node1)", "no such image")
}
