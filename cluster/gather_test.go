package cluster

import (
	"bytes"
	"strings"
	"testing"
)

func TestGather(t *testing.T) {
	t.Parallel()
	sound(t, together(t, 4, func(m *Member) error {
		for round := range 3 {
			all, err := m.Gather(t.Context(), "x", []byte{byte(m.Rank()), byte(round), 0})
			if err != nil {
				return err
			}
			for rank, v := range all {
				if want := []byte{byte(rank), byte(round), 0}; !bytes.Equal(v, want) {
					t.Errorf("round %d, rank %d: %v", round, rank, v)
				}
			}
		}
		if hosts := m.Hosts(); hosts[3] != "node3" {
			t.Errorf("hosts %v", hosts)
		}
		if err := m.Leave(t.Context()); err != nil {
			return err
		}
		if _, err := m.Gather(t.Context(), "x", nil); err == nil || !strings.Contains(err.Error(), "left") { // nobody else will come
			t.Errorf("a rank that has left waits for the others: %v", err)
		}
		return m.Leave(t.Context())
	}))
}

func TestSameNamesWhatDiffers(t *testing.T) {
	t.Parallel()
	failed := together(t, 5, func(m *Member) error {
		if err := m.Same(t.Context(), Fact{"recipe", "aa"}); err != nil {
			return err
		}
		gpus := "8"
		if m.Rank() == 3 {
			gpus = "4"
		}
		return m.Same(t.Context(), Fact{"binary", "b1"}, Fact{"GPUs per node", gpus})
	})
	alike(t, failed, CodeDiffers, "GPUs per node differs: ranks 0-2, 4 have 8, rank 3 (node3) has 4")
	if strings.Contains(failed[0].Error(), "binary") {
		t.Errorf("what is the same is named: %v", failed[0])
	}
}
