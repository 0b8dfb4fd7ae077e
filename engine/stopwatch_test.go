package engine_test

import (
	"fmt"
	"testing"
	"time"

	"fewstep/engine"

	"github.com/gomlx/compute/dtypes"
)

// Taking the time of updates changes no bit, sees every update that is a program of its own, and nothing else.
func TestTimeUpdates(t *testing.T) {
	for _, mode := range modes {
		for _, micro := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s-%d", mode, micro), func(t *testing.T) {
				plain, timed := newEngine(mode, dtypes.Float32), newEngine(mode, dtypes.Float32)
				start := func(e *engine.Engine) *engine.Optimizer {
					return must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, Seed: 3}, towerParams(t, e)))
				}
				a, b := start(plain), start(timed)
				timed.TimeUpdates(true)
				begin := time.Now()
				got := climb(t, timed, b, 0, 2, micro)
				took, within := timed.UpdateTime(), time.Since(begin)
				sameBits(t, got, climb(t, plain, a, 0, 2, micro))
				if apart := mode != "fused" || micro > 1; apart != (took > 0) || took > within {
					t.Errorf("updates took %v of %v", took, within)
				}
				if again := timed.UpdateTime(); again != 0 {
					t.Errorf("%v are told twice", again)
				}
				timed.TimeUpdates(false)
				climb(t, timed, b, 2, 1, micro)
				if off := timed.UpdateTime(); off != 0 || plain.UpdateTime() != 0 {
					t.Errorf("%v taken while it is off", off)
				}
			})
		}
	}
}
