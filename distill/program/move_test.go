package program

import (
	"math"
	"testing"

	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// A guided step as one call of twice the batch is the guided step as two calls.
func TestGuidedTogetherIsApart(t *testing.T) {
	steps := map[nn.Level][]float32{}
	for _, level := range []nn.Level{nn.Network, nn.Layer} {
		e := engine.New(runtime.Backend, dtypes.Float32, level)
		w := newWorld(t, e, "mse", nil, "", false)
		x, err := w.f.Move(e, w.bind[NetUNet], w.conditions(), w.vector(0.9, 0.8), w.vector(-0.3, 0.2), &Guidance{Scale: w.vector(7, 3)})
		if err != nil {
			t.Fatal(err)
		}
		if steps[level], err = e.Floats(x); err != nil {
			t.Fatal(err)
		}
	}
	apart, together := steps[nn.Network], steps[nn.Layer]
	if len(apart) != len(together) || len(apart) == 0 {
		t.Fatalf("%d and %d numbers", len(apart), len(together))
	}
	for i := range apart {
		if d := math.Abs(float64(apart[i] - together[i])); !(d <= 2e-5*max(1, math.Abs(float64(apart[i])))) {
			t.Fatalf("element %d: %g apart, %g together", i, apart[i], together[i])
		}
	}
}
