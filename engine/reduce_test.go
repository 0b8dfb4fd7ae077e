package engine

import (
	"testing"

	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// Gradients that are sent from where they lie, and those that share a transfer, come back in their places.
func TestSumOfLargeAndSmall(t *testing.T) {
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: 2})
	if err != nil {
		xlatest.Missing(t, err)
	}
	t.Cleanup(rt.Close)
	sizes := []int{3, ownTransfer / 4, 1, ownTransfer/4 - 1, ownTransfer/4 + 5}
	for _, in := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		g, err := NewGroup(New(rt.Backend, dtypes.Float32, nn.Network), 2, in, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = g.Together(func(rank int) error {
			e := g.Engines()[rank]
			var arrays []*Array
			for i, n := range sizes {
				values := make([]float32, n)
				for k := range values {
					values[k] = float32((i+1)*(rank+1) + k%7)
				}
				a, err := e.Upload(values, n)
				if err != nil {
					return err
				}
				arrays = append(arrays, a)
			}
			sums, err := e.sum(arrays)
			if err != nil {
				return err
			}
			for i, a := range sums {
				got, err := e.Floats(a)
				if err != nil {
					return err
				}
				for k, v := range got {
					if want := float32(3*(i+1) + 2*(k%7)); v != want {
						t.Errorf("%s, device %d, array %d, value %d: %g, want %g", in, rank, i, k, v, want)
						break
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
