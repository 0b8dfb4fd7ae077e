package distill

import (
	"encoding/json"
	"math"
	"testing"
)

func TestGate(t *testing.T) {
	p := &Phase{WarmupDiscriminator: 32, Gate: 0.6}
	var g Gate
	if g.StudentMoves(p, 100) {
		t.Error("the gate is open before anything was seen")
	}
	for i, c := range []struct {
		accuracy, mean float64
		moves          bool
	}{{1, 1, false}, {0.5, 0.75, false}, {0.5, 2.0 / 3, true}, {0.5, 0.625, true}, {0.5, 0.59375, false}, {1, 0.6953125, true}} {
		done := int64(i) * 16
		g.Observe(c.accuracy, 16, 64)
		if math.Abs(g.Accuracy-c.mean) > 1e-15 || g.StudentMoves(p, done) != c.moves {
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
	open := &Phase{}
	if !new(Gate).StudentMoves(open, 0) {
		t.Error("a phase without a gate waits")
	}
	g.Observe(math.NaN(), 16, 64)
	if g.StudentMoves(p, 1000) {
		t.Error("the student moves on an accuracy that is no number")
	}
	big := Gate{}
	big.Observe(0.8, 512, 64) // one update longer than the window
	big.Observe(0.6, 512, 64)
	if big.Accuracy != 0.6 {
		t.Errorf("mean %g, want that of the last update", big.Accuracy)
	}
}
