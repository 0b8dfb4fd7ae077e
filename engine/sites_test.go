package engine_test

import (
	"testing"

	"fewstep/engine"

	"github.com/gomlx/compute/dtypes"
)

// Programs of their own for every place change no bit, there are more of them, and dropping all of them between steps
// costs nothing but their return.
func TestSitesChangeNoBit(t *testing.T) {
	shared, own := newEngine("tape", dtypes.Float32), newEngine("tape", dtypes.Float32)
	own.Sites = true
	start := func(e *engine.Engine) *engine.Optimizer {
		return must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, Seed: 3}, towerParams(t, e)))
	}
	a, b := start(shared), start(own)
	sameBits(t, climb(t, own, b, 0, 2, 1), climb(t, shared, a, 0, 2, 1))
	few, many := shared.Compiled().Programs, own.Compiled().Programs
	if many < few+2*(deep-1) {
		t.Errorf("%d programs for %d layers, and %d where they are shared", many, deep, few)
	}
	own.Drop()
	sameBits(t, climb(t, own, b, 2, 2, 1), climb(t, shared, a, 2, 2, 1))
	if got := own.Compiled().Programs; got != 2*many {
		t.Errorf("%d programs after all %d were dropped and made again", got, many)
	}
}
