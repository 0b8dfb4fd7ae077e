package stats

import (
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// gaussian draws n vectors with the given mean and independent dimensions.
func gaussian(rng *rand.Rand, n int, mean float64, deviations []float64) [][]float64 {
	out := make([][]float64, n)
	for i := range out {
		out[i] = make([]float64, len(deviations))
		for j, s := range deviations {
			out[i][j] = mean + s*rng.NormFloat64()
		}
	}
	return out
}

// diagonalReference is an exact reference N(0, diag(deviations²)).
func diagonalReference(t *testing.T, deviations []float64) *Moments {
	t.Helper()
	c := mat.NewSymDense(len(deviations), nil)
	for j, s := range deviations {
		c.SetSym(j, j, s*s)
	}
	m, err := FromMeanCovariance(make([]float64, len(deviations)), c, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func decaying(dims int, first float64) []float64 {
	out := make([]float64, dims)
	for j := range out {
		out[j] = first / (1 + float64(j)/float64(dims))
	}
	return out
}

// Gaussians of known distance: the interval holds the expected distance at n
// samples about as often as it says, also with fewer samples than dimensions;
// the corrected one holds the true distance where it is documented to.
func TestFrechetIntervalCovers(t *testing.T) {
	for _, c := range []struct {
		n, dims   int
		mean      float64
		spread    float64
		corrected bool
	}{
		{64, 4, 0.3, 1.3, true},
		{96, 6, 0.2, 1.2, true},
		{24, 32, 0.1, 1.2, false},
	} {
		const sets = 150
		rng := rand.New(rand.NewPCG(4, uint64(c.n)))
		deviations := decaying(c.dims, 1)
		reference := diagonalReference(t, deviations)
		drawn := decaying(c.dims, c.spread)
		truth := float64(c.dims) * c.mean * c.mean
		for j := range drawn {
			truth += (drawn[j] - deviations[j]) * (drawn[j] - deviations[j])
		}
		var expected float64
		intervals := make([]Interval, sets)
		for i := range intervals {
			iv, err := FrechetInterval(gaussian(rng, c.n, c.mean, drawn), reference, Resampling{Resamples: 150, Seed: uint64(i)})
			if err != nil {
				t.Fatal(err)
			}
			intervals[i] = iv
			expected += iv.Value / sets
		}
		if expected <= truth {
			t.Errorf("%+v: expected distance %g at %d samples is not above the true %g", c, expected, c.n, truth)
		}
		var held, heldTruth float64
		for _, iv := range intervals {
			if iv.Low <= expected && expected <= iv.High {
				held++
			}
			if k := iv.Corrected(); k.Low <= truth && truth <= k.High {
				heldTruth++
			}
		}
		if held/sets < 0.89 {
			t.Errorf("%+v: 95 %% intervals held the expected distance in %.1f %% of sets", c, 100*held/sets)
		}
		if c.corrected && heldTruth/sets < 0.89 {
			t.Errorf("%+v: corrected 95 %% intervals held the true distance in %.1f %% of sets", c, 100*heldTruth/sets)
		}
	}
}

// The same for intervals from influences, with more and with fewer samples than dimensions, which a ruler of this size
// would not choose by itself.
func TestInfluenceIntervalCovers(t *testing.T) {
	for _, c := range []struct {
		n, dims      int
		mean, spread float64
	}{{64, 4, 0.3, 1.3}, {128, 32, 0.1, 1.2}, {24, 32, 0.1, 1.2}} {
		const sets = 200
		rng := rand.New(rand.NewPCG(4, uint64(c.n)))
		ruler, err := newFrechetRuler(diagonalReference(t, decaying(c.dims, 1)))
		if err != nil {
			t.Fatal(err)
		}
		opt, _ := Resampling{}.withDefaults()
		var expected, half float64
		intervals := make([]Interval, sets)
		for i := range intervals {
			x := gaussian(rng, c.n, c.mean, decaying(c.dims, c.spread))
			got, err := ruler.measure(x).influenceInterval(c.n, opt)
			if err != nil {
				t.Fatal(err)
			}
			intervals[i] = got
			expected += got.Value / sets
			half += (got.High - got.Low) / 2 / sets
		}
		var held, variance float64
		for _, iv := range intervals {
			if iv.Low <= expected && expected <= iv.High {
				held++
			}
			variance += (iv.Value - expected) * (iv.Value - expected) / sets
		}
		if held/sets < 0.91 {
			t.Errorf("%+v: 95 %% intervals held the expected distance in %.1f %% of sets", c, 100*held/sets)
		}
		if ratio := half / (1.96 * math.Sqrt(variance)); ratio < 0.9 || ratio > 1.5 {
			t.Errorf("%+v: intervals are %.2f times as wide as the distances scatter", c, ratio)
		}
	}
}

// Both kinds of interval are about the same value, and the large kind is chosen for large problems.
func TestIntervalMethods(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	const dims = resampledSize + 10
	x := gaussian(rng, dims+30, 0.1, decaying(dims, 1.1))
	reference := diagonalReference(t, decaying(dims, 1))
	iv, err := FrechetInterval(x, reference, Resampling{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := MomentsOf(x)
	want, err := Frechet(m, reference)
	if err != nil {
		t.Fatal(err)
	}
	if iv.Method != ByInfluence || math.Abs(iv.Value-want) > 1e-9*want || !(iv.Low < iv.Value && iv.Value < iv.High) || !(iv.Bias > 0) {
		t.Errorf("%+v, want the distance %g inside", iv, want)
	}
	small, err := FrechetInterval(gaussian(rng, 40, 0.1, decaying(6, 1.1)), diagonalReference(t, decaying(6, 1)), Resampling{Resamples: 40})
	if err != nil || small.Method != ByParts {
		t.Errorf("%+v, %v", small, err)
	}
}

// A 50 % interval must miss often: the coverage test above can fail.
func TestFrechetIntervalLevel(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	x := gaussian(rng, 60, 0.2, decaying(5, 1.1))
	reference := diagonalReference(t, decaying(5, 1))
	wide, err := FrechetInterval(x, reference, Resampling{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	narrow, err := FrechetInterval(x, reference, Resampling{Seed: 1, Level: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	if ratio := (narrow.High - narrow.Low) / (wide.High - wide.Low); ratio < 0.2 || ratio > 0.5 {
		t.Errorf("a 50 %% interval is %.2f as wide as a 95 %% one, want about 0.34", ratio)
	}
}

func TestFrechetIntervalValueAndDeterminism(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	ref := gaussian(rng, 90, 0, decaying(20, 1))
	reference, _ := MomentsOf(ref)
	for _, n := range []int{15, 16, 21, 80} { // fewer than, and more than, the 20 dimensions; odd
		x := gaussian(rng, n, 0.3, decaying(20, 1.2))
		want, err := FrechetFeatures(x, ref)
		if err != nil {
			t.Fatal(err)
		}
		a, err := FrechetInterval(x, reference, Resampling{Resamples: 40, Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(a.Value-want) > 1e-9*want || !(a.Low <= a.Value && a.Value <= a.High) || a.Samples != n {
			t.Errorf("%d samples: %+v, want the value %v inside", n, a, want)
		}
		b, _ := FrechetInterval(x, reference, Resampling{Resamples: 40, Seed: 3})
		c, _ := FrechetInterval(x, reference, Resampling{Resamples: 40, Seed: 4})
		if !reflect.DeepEqual(a, b) || reflect.DeepEqual(a, c) {
			t.Errorf("%d samples: seed 3 twice %+v, %+v; seed 4 %+v", n, a, b, c)
		}
	}
}

// Two models made from the same noise: intervals of the difference hold what is expected, are narrower than the values'
// own, and tell apart what these cannot.
func TestDifferenceIsPaired(t *testing.T) {
	for _, c := range []struct {
		n, dims int
		scale   float64
	}{{64, 4, 1.1}, {128, 32, 1.02}, {48, 64, 1.02}} {
		const sets = 100
		rng := rand.New(rand.NewPCG(6, uint64(c.n)))
		reference := diagonalReference(t, decaying(c.dims, 1))
		var frechet, mean []Interval
		apart, touching := 0, 0
		for i := range sets {
			opt := Resampling{Seed: uint64(i), Resamples: 40}
			x := gaussian(rng, c.n, 0.3, decaying(c.dims, 1))
			y, first, second := make([][]float64, c.n), make([]float64, c.n), make([]float64, c.n)
			noise := gaussian(rng, c.n, 0.01, decaying(c.dims, 0.05))
			for k, row := range x {
				for j, v := range row {
					y[k] = append(y[k], c.scale*v+noise[k][j])
				}
				first[k], second[k] = row[0], y[k][0]
			}
			a, err := FrechetInterval(x, reference, opt)
			if err != nil {
				t.Fatal(err)
			}
			b, err := FrechetInterval(y, reference, opt)
			if err != nil {
				t.Fatal(err)
			}
			d, ok := Difference(b, a, 0.95)
			if !ok || math.Abs(d.Value-(b.Value-a.Value)) > 1e-12 {
				t.Fatalf("difference %+v of %+v and %+v", d, b, a)
			}
			frechet = append(frechet, d)
			if d.Low > 0 {
				apart++
			}
			if b.Low <= a.High {
				touching++
			}
			a, _ = MeanInterval(first, opt)
			b, _ = MeanInterval(second, opt)
			d, _ = Difference(b, a, 0.95)
			mean = append(mean, d)
		}
		for name, all := range map[string][]Interval{"Fréchet distances": frechet, "means": mean} {
			held, width, scatter := coverage(all)
			t.Logf("%+v, difference of %s: held %.3f, deviation %.4f, estimated %.4f", c, name, held, scatter, width)
			if held < 0.9 || width > 1.5*scatter {
				t.Errorf("%+v: 95 %% intervals of the difference of %s held its expectation in %.1f %% of sets, deviation %.4f, estimated %.4f", c, name, 100*held, scatter, width)
			}
		}
		t.Logf("%+v: told apart in %d of %d sets, single intervals touch in %d", c, apart, sets, touching)
		if apart < sets*9/10 || touching < sets/2 {
			t.Errorf("%+v: told apart in %d of %d sets, single intervals touch in %d", c, apart, sets, touching)
		}
	}
	a, b := Interval{Samples: 3, Influences: []float64{1, 0, -1}}, Interval{Samples: 4, Influences: []float64{1, 0, -1}}
	if _, ok := Difference(a, b, 0.95); ok {
		t.Error("unpaired values were compared")
	}
	if _, ok := Difference(Interval{Samples: 3}, Interval{Samples: 3}, 0.95); ok {
		t.Error("values without influences were compared")
	}
}

func TestMeanIntervalCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	const sets = 300
	var held float64
	for i := range sets {
		values := make([]float64, 50)
		for j := range values {
			values[j] = 25 + 4*rng.NormFloat64()
		}
		iv, err := MeanInterval(values, Resampling{Resamples: 200, Seed: uint64(i)})
		if err != nil {
			t.Fatal(err)
		}
		if iv.Low <= 25 && 25 <= iv.High {
			held++
		}
	}
	if held/sets < 0.89 || held/sets > 0.99 {
		t.Errorf("95 %% intervals held the mean in %.1f %% of sets", 100*held/sets)
	}
}

func TestIntervalBadInput(t *testing.T) {
	reference := diagonalReference(t, decaying(3, 1))
	good := lcgFeatures(1, 10, 3, 0, 1)
	bad := lcgFeatures(1, 10, 3, 0, 1)
	bad[4][1] = math.NaN()
	_, nan := FrechetInterval(bad, reference, Resampling{})
	_, few := FrechetInterval(good[:3], reference, Resampling{})
	_, dims := FrechetInterval(lcgFeatures(1, 10, 4, 0, 1), reference, Resampling{})
	_, level := FrechetInterval(good, reference, Resampling{Level: 95})
	_, empty := FrechetInterval(good, NewMoments(3), Resampling{})
	_, score := MeanInterval([]float64{1, math.NaN()}, Resampling{})
	_, one := MeanInterval([]float64{1}, Resampling{})
	for want, err := range map[string]error{
		"feature 4 is NaN in dimension 1": nan, "at least 4 samples": few, "reference has 3": dims,
		"level between 0 and 1": level, "reference has 0 samples": empty, "sample 1 has the value NaN": score, "at least 2 samples": one,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func BenchmarkFrechetInterval(b *testing.B) {
	for name, size := range map[string][2]int{"256x128": {256, 128}, "2048x256": {2048, 256}} {
		b.Run(name, func(b *testing.B) {
			ref, _ := MomentsOf(lcgFeatures(1, 2*size[1]+50, size[1], 0, 1))
			x := lcgFeatures(2, size[0], size[1], 0.1, 1)
			for b.Loop() {
				if _, err := FrechetInterval(x, ref, Resampling{Resamples: 100}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
