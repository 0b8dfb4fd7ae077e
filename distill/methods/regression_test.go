package methods_test

import (
	"math"
	"testing"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// The regression of a network's own output on its last features finds the network's own conv_out; of another target,
// weights that no other set beats.
func TestRegressionFindsConvOut(t *testing.T) {
	w := newWorld(t, engine.New(runtime.Backend, dtypes.Float32, nn.Network), "mse", nil, discriminator.Conditional, false)
	in := w.conditions()
	weight, bias := w.f.Denoiser.LastLayer()
	own, err := w.e.Call(w.f.Predict(), w.bind, in...)
	if err != nil {
		t.Fatal(err)
	}
	solve := func(target *engine.Array) (*distill.Regression, [][]float64, []float64) {
		t.Helper()
		out, err := w.e.Call(w.f.Regression(), w.bind, inputs(in, target)...)
		if err != nil {
			t.Fatal(err)
		}
		v, err := w.e.Floats(out[0])
		if err != nil {
			t.Fatal(err)
		}
		r := distill.NewRegression(9*8, 4)
		if err := r.Add(v[:len(v)/2], v[len(v)/2:], tinyBatch*tinySide*tinySide); err != nil {
			t.Fatal(err)
		}
		weights, constants, err := r.Solve()
		if err != nil {
			t.Fatal(err)
		}
		return r, weights, constants
	}
	r, weights, constants := solve(own[0])
	if loss := r.Loss(weights, constants); loss > 1e-9 {
		t.Errorf("its own output is missed by %g", loss)
	}
	worst := 0.0
	for i, got := range w.f.Denoiser.Kernel(weights) {
		worst = max(worst, math.Abs(float64(got-w.values[program.NetDenoiser][weight][i])))
	}
	for i, got := range constants {
		worst = max(worst, math.Abs(got-float64(w.values[program.NetDenoiser][bias][i])))
	}
	if worst > 1e-3 {
		t.Errorf("its weights are missed by %g", worst)
	}
	r, weights, constants = solve(w.array(4, tinyInputs()[0]...))
	best := r.Loss(weights, constants)
	for i := range weights {
		for _, d := range []float64{-1e-3, 1e-3} {
			weights[i][i%4] += d
			if other := r.Loss(weights, constants); other < best {
				t.Errorf("a weight %d moved by %g gives %.12g, the solution %.12g", i, d, other, best)
			}
			weights[i][i%4] -= d
		}
	}
}
