package methods_test

import (
	"math"
	"slices"
	"testing"

	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/compute/dtypes"
)

// A guided step as one call of twice the batch is the guided step as two calls, also away from an encoded empty prompt, which
// leads elsewhere than zeros; and for a denoiser that is told text alone.
func TestGuidedTogetherIsApart(t *testing.T) {
	for _, c := range []*unet.Config{tiny(), plain()} {
		var fromZeros []float32
		for _, encoded := range []bool{false, true} {
			steps := map[nn.Level][]float32{}
			for _, level := range []nn.Level{nn.Network, nn.Layer} {
				e := engine.New(runtime.Backend, dtypes.Float32, level)
				w := newWorldOf(t, c, e, "mse", nil, "", false)
				g := &program.Guidance{Scale: w.vector(7, 3)}
				if in := w.conditions(); encoded {
					for k, i := range captions(w) {
						g.Empty = append(g.Empty, w.array(int64(30+k), in[i].Shape().Dimensions...))
					}
				}
				x, err := w.f.Move(e, w.bind[program.NetDenoiser], w.conditions(), w.vector(0.9, 0.8), w.vector(-0.3, 0.2), g)
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
			if !encoded {
				fromZeros = apart
			} else if slices.Equal(fromZeros, apart) {
				t.Error("the encoded empty prompt changes nothing")
			}
		}
	}
}

// captions are the places of the inputs that follow from captions.
func captions(w *world) (places []int) {
	for i, c := range w.f.Denoiser.Conditions(1) {
		if c.Caption {
			places = append(places, family.Given+i)
		}
	}
	return places
}
