package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"fewstep/eval/stats"
)

// setOf is a row of the Fréchet distance of normal samples whose means lie the given distance off those of the reference:
// the distance is its square. Samples of one seed share their noise, as models of one noise do.
func setOf(t *testing.T, model string, kind Kind, steps int, offset float64, n int) Row {
	t.Helper()
	const dims = 4
	draw := func(seed uint64, offset float64, n int) [][]float64 {
		r := rand.New(rand.NewPCG(seed, 1))
		out := make([][]float64, n)
		for i := range out {
			for range dims {
				out[i] = append(out[i], r.NormFloat64()+offset/math.Sqrt(dims))
			}
		}
		return out
	}
	reference, err := stats.MomentsOf(draw(1, 0, 20000))
	if err != nil {
		t.Fatal(err)
	}
	iv, err := stats.FrechetInterval(draw(2, offset, n), reference, stats.Resampling{Resamples: 40, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	row := Row{Model: model, Kind: kind, Steps: steps, Calls: steps, Metric: "FD-Whole", Convention: "c", Value: iv.Value, Low: iv.Low, High: iv.High, Samples: n}
	for _, v := range iv.Influences {
		row.Influences = append(row.Influences, float32(v))
	}
	return row
}

// Of sets whose distances are known, ratios come out as they are, and are met, missed or undecided as they should be.
func TestTargetsOfKnownDistances(t *testing.T) {
	m := []Metric{{Name: "FD-Whole", Convention: "c", Counterpart: "FID-Whole"}}
	for _, c := range []struct {
		ratio float64
		n     int
		want  Reach
	}{{1.0, 4000, Met}, {1.4, 4000, Missed}, {1.16, 4000, Undecided}, {1.2, 100, Undecided}} {
		rows := []Row{setOf(t, "teacher", Teacher, 32, 1, c.n), setOf(t, "4step", Full, 4, math.Sqrt(c.ratio), c.n)}
		got := Targets(rows, m)
		if len(got) != 1 {
			t.Fatalf("%d targets", len(got))
		}
		g := got[0]
		if g.Reach != c.want || math.Abs(g.Ratio-c.ratio) > 0.03+1.5/math.Sqrt(float64(c.n)) || g.Bound != 1.16 || g.Asks() != "≤ 1.16" || g.To != "teacher" {
			t.Errorf("ratio %g of %d samples: %+v, want %s", c.ratio, c.n, g, c.want)
		}
		if !(g.Low <= g.Ratio && g.Ratio <= g.High) {
			t.Errorf("the interval does not hold the ratio: %+v", g)
		}
	}
}

// The interval of a ratio holds the true one as often as it says.
func TestTargetIntervalCovers(t *testing.T) {
	const ratio, n, runs = 1.2, 200, 300
	held := 0
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 7))
		a := Row{Value: 0, Samples: n, Low: math.NaN(), High: math.NaN()}
		b := a
		for range n { // means of 1.2 and 1 that share most of their noise
			shared := r.NormFloat64()
			x, y := ratio+0.5*shared+0.2*r.NormFloat64(), 1+0.5*shared+0.2*r.NormFloat64()
			a.Influences, b.Influences = append(a.Influences, float32(x)), append(b.Influences, float32(y))
			a.Value, b.Value = a.Value+x/n, b.Value+y/n
		}
		for i := range n {
			a.Influences[i] -= float32(a.Value)
			b.Influences[i] -= float32(b.Value)
		}
		if g := target(Metric{}, a, b, 1.16); g.Low <= ratio && ratio <= g.High {
			held++
		}
	}
	if share := float64(held) / runs; share < 0.91 || share > 0.985 {
		t.Errorf("nominal 95 %% intervals held the ratio in %.1f %%", 100*share)
	}
}

// Every distilled model is judged by every metric that has a target, LoRAs of 8 and 4 steps by the full model too.
func TestTargetsAreComplete(t *testing.T) {
	metrics := []Metric{
		{Name: "FD-Whole", Convention: "c", Counterpart: "FID-Whole"}, {Name: "FD-Patch", Convention: "c", Counterpart: "FID-Patch"},
		{Name: "FD(other)", Convention: "c", Counterpart: "FID-Whole"}, {Name: "CLIP score", Convention: "c", Counterpart: "CLIP score", Higher: true},
		{Name: "Diversity", Convention: "c", Higher: true},
	}
	var rows []Row
	for _, m := range metrics {
		add := func(model string, kind Kind, steps int, v float64) {
			rows = append(rows, Row{Model: model, Kind: kind, Steps: steps, Calls: steps, Metric: m.Name, Convention: "c", Value: v, Low: v * 0.99, High: v * 1.01, Samples: 10})
		}
		add("teacher", Teacher, 32, 10)
		add("teacher", Undistilled, 4, 20)
		for _, steps := range []int{32, 8, 4, 2, 1} {
			add(fmt.Sprintf("%dstep", steps), Full, steps, 10)
			if steps > 1 {
				add(fmt.Sprintf("%dstep_lora", steps), LoRA, steps, 11)
			}
		}
	}
	var text []string
	count := map[string]int{}
	for _, g := range Targets(rows, metrics) {
		count[g.To]++
		if g.Model == "4step_lora" {
			text = append(text, fmt.Sprintf("%s / %s: %s, %s, %s", g.Metric.Name, g.To, g.Figure(), g.Asks(), g.Reach))
		}
	}
	if count["teacher"] != 4*(4+3) || count["8step"] != 4 || count["4step"] != 4 || len(count) != 3 {
		t.Errorf("%v", count)
	}
	want := `FD-Whole / teacher: 1.10 (1.08–1.12), ≤ 1.16, met
FD-Whole / 4step: 1.10 (1.08–1.12), ≤ 1.05, missed
FD-Patch / teacher: 1.10 (1.08–1.12), ≤ 0.95, missed
FD-Patch / 4step: 1.10 (1.08–1.12), ≤ 1.05, missed
FD(other) / teacher: 1.10 (1.08–1.12), ≤ 1.16, met
FD(other) / 4step: 1.10 (1.08–1.12), ≤ 1.05, missed
CLIP score / teacher: 1.10 (1.08–1.12), ≥ 0.985, met
CLIP score / 4step: 1.10 (1.08–1.12), ≥ 0.95, met`
	if got := strings.Join(text, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
