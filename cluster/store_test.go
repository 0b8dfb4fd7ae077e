package cluster

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	value := []byte{0, 255, '"', '\n', 0xc3, 0x28}
	sound(t, together(t, 2, func(m *Member) error {
		s := m.Store("pjrt")
		if m.Rank() == 0 {
			if _, err := s.TryGet(t.Context(), "late"); !errors.Is(err, ErrNotFound) {
				t.Errorf("try of a key that is not there: %v", err)
			}
			ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer stop()
			if _, err := s.Get(ctx, "never"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("get of a key that never comes: %v", err)
			}
			if _, err := m.Gather(t.Context(), "tried", nil); err != nil {
				return err
			}
			if got, err := s.Get(t.Context(), "late"); err != nil || !bytes.Equal(got, value) {
				t.Errorf("got %v, %v", got, err)
			}
			if err := s.Put(t.Context(), "late", []byte("other")); !errors.Is(err, ErrExists) {
				t.Errorf("put of a key that is there: %v", err)
			}
			if _, err := m.Store("other").TryGet(t.Context(), "late"); !errors.Is(err, ErrNotFound) {
				t.Errorf("a key of another store: %v", err)
			}
		} else {
			if _, err := m.Gather(t.Context(), "tried", nil); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
			if err := s.Put(t.Context(), "late", value); err != nil {
				return err
			}
			if err := s.Put(t.Context(), "empty", nil); err != nil {
				return err
			}
			if got, err := s.TryGet(t.Context(), "empty"); err != nil || len(got) != 0 {
				t.Errorf("empty value: %v, %v", got, err)
			}
		}
		return m.Leave(t.Context())
	}))
}
