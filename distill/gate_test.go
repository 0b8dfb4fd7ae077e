package distill

import (
	"encoding/json"
	"fewstep/configs"
	"math"
	"testing"
)

func TestGate(t *testing.T) {
	p := &configs.Phase{WarmupDiscriminator: 32, Gate: 0.6}
	var g Gate
	if g.StudentMoves(p, 100) {
		t.Error("the gate is open before anything was seen")
	}
	for i, c := range []struct {
		accuracy, mean float64
		moves          bool // the update that comes after
	}{{1, 1, false}, {0.5, 0.75, true}, {0.5, 2.0 / 3, true}, {0.5, 0.625, true}, {0.5, 0.59375, false}, {1, 0.6953125, true}} {
		done := int64(i+1) * 16
		g.Observe(p, c.accuracy, 16, 64)
		if math.Abs(g.Accuracy-c.mean) > 1e-15 || g.StudentMoves(p, done) != c.moves || !g.Decides(p, done) {
			t.Errorf("after update %d: mean %g, moves %t; want %g, %t", i, g.Accuracy, g.StudentMoves(p, done), c.mean, c.moves)
		}
	}
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var again Gate
	if err := json.Unmarshal(data, &again); err != nil || again != g {
		t.Errorf("%s came back as %+v, %v", data, again, err)
	}
	open := &configs.Phase{}
	if !new(Gate).StudentMoves(open, 0) || new(Gate).Decides(open, 0) {
		t.Error("a phase without a gate waits")
	}
	g.Observe(p, math.NaN(), 16, 64)
	if g.StudentMoves(p, 1000) {
		t.Error("the student moves on an accuracy that is no number")
	}
	big := Gate{}
	big.Observe(p, 0.8, 512, 64) // one update longer than the window
	big.Observe(p, 0.6, 512, 64)
	if big.Accuracy != 0.6 {
		t.Errorf("mean %g, want that of the last update", big.Accuracy)
	}
}

// A warm-up ends by the paired accuracy of at least one window, for good, or with its samples.
func TestWarmup(t *testing.T) {
	p := &configs.Phase{WarmupDiscriminator: 160, WarmupAccuracy: 0.6}
	var g Gate
	for i, c := range []struct {
		accuracy float64
		moves    bool
	}{{1, false}, {0.5, false}, {0.5, true}, {0, true}, {0, true}} { // means 1, 0.75, 0.67 of a window of 48
		done := int64(i+1) * 16
		g.Observe(p, c.accuracy, 16, 48)
		if g.StudentMoves(p, done) != c.moves || g.Decides(p, done) == c.moves {
			t.Errorf("after update %d, mean %g: moves %t, decides %t", i, g.Accuracy, g.StudentMoves(p, done), g.Decides(p, done))
		}
	}
	low := Gate{}
	for range 9 {
		low.Observe(p, 0.5, 16, 48)
	}
	if low.StudentMoves(p, 144) || !low.StudentMoves(p, 160) || low.Decides(p, 160) {
		t.Error("a warm-up at chance does not end with its samples, or earlier")
	}
}

// Rates decay over the samples that are counted.
func TestRatesCountTheStudent(t *testing.T) {
	p := &configs.Phase{LR: 2, DiscriminatorLR: 4, Decay: configs.DecayLinear}
	s := Step{Warmup: 40, Samples: 140}
	for done, want := range map[int64]float64{0: 2, 39: 2, 40: 2, 90: 1, 139: 0.02} {
		if got := p.StudentRate(s.RateAt(done)); math.Abs(got-want) > 1e-12 {
			t.Errorf("rate %g at %d, want %g", got, done, want)
		}
		if got := p.DiscriminatorRate(s.RateAt(done)); math.Abs(got-2*want) > 1e-12 {
			t.Errorf("discriminator's rate %g at %d, want %g", got, done, 2*want)
		}
	}
}
