package monitor

import (
	"reflect"
	"testing"
)

func TestCountMoves(t *testing.T) {
	var records []Record
	step := func(stage, phase string, samples int64, names ...string) {
		r := Record{Kind: KindStep, Stage: stage, Phase: phase, Samples: samples, Total: 3, Values: Values{}}
		for _, n := range names {
			r.Values[n] = 1
		}
		records = append(records, r)
	}
	records = append(records, Record{Kind: KindPhase, Stage: "32", Phase: "mse"})
	step("32", "mse", 1, Loss)
	step("32", "mse", 3, Loss)
	step("8", "cond", 1, LossD)
	step("8", "cond", 2, LossD, LossG)
	step("8", "cond", 3, LossD)
	step("8", "uncond", 1, LossD, LossG)
	want := []Moves{{"32", "mse", 2, 0, true}, {"8", "cond", 1, 3, true}, {"8", "uncond", 1, 1, false}}
	got := CountMoves(records)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !got[1].Few() || got[2].Few() || (Moves{Student: FewUpdates, Done: true}).Few() {
		t.Error("few updates are those below the bound of a phase that is done")
	}
}
