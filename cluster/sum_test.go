package cluster

import (
	"fmt"
	"math"
	"testing"
)

// Sums have the same bits on all ranks, in the order of ranks, also where a vector takes several messages.
func TestSum(t *testing.T) {
	t.Parallel()
	const n = 3
	value := func(rank, i int) float32 {
		return float32(math.Sin(float64(1000*rank+i))) * float32(math.Pow(10, float64(rank)))
	}
	sound(t, together(t, n, func(m *Member) error {
		for _, size := range []int{0, 1, 7, mostSummed + 5} {
			v := make([]float32, size)
			for i := range v {
				v[i] = value(m.Rank(), i)
			}
			if err := m.Sum(t.Context(), v); err != nil {
				return err
			}
			for i := 0; i < size; i += 1 + size/100 {
				if want := value(0, i) + value(1, i) + value(2, i); v[i] != want {
					return fmt.Errorf("element %d of %d is %g, want %g", i, size, v[i], want)
				}
			}
		}
		if m.hub != nil && len(m.hub.sums) > 1 {
			return fmt.Errorf("%d sums are kept", len(m.hub.sums))
		}
		return nil
	}))
}

func TestSumOfUnlikeVectors(t *testing.T) {
	t.Parallel()
	alike(t, together(t, 2, func(m *Member) error {
		return m.Sum(t.Context(), make([]float32, 3+m.Rank()))
	}), CodeError, "do not do the same", "3")
}
