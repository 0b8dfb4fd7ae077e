package stats

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestSetsAgreeWithPython compares with clean-fid's kernel distance and torch-fidelity's precision and recall.
func TestSetsAgreeWithPython(t *testing.T) {
	raw, err := os.ReadFile("testdata/sets.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		N, M, Dims        int
		Shift, Spread     float64
		Precision, Recall float64
		KID               *float64
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) < 4 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		x, y := lcgFeatures(1, c.N, c.Dims, c.Shift, c.Spread), lcgFeatures(2, c.M, c.Dims, 0, 1)
		gen, err := NewManifold(x, 3)
		if err != nil {
			t.Fatal(err)
		}
		real, err := NewManifold(y, 3)
		if err != nil {
			t.Fatal(err)
		}
		p, r, err := PrecisionRecall(gen, real, Resampling{})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(p.Value-c.Precision) > 1e-6 || math.Abs(r.Value-c.Recall) > 1e-6 {
			t.Errorf("%+v: precision %v, recall %v", c, p.Value, r.Value)
		}
		if c.KID == nil {
			continue
		}
		kid, err := KernelDistance(x, y, Subsets{}, Resampling{})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(kid.Value-*c.KID) > 1e-9 || kid.Resamples != 1 {
			t.Errorf("%+v: kernel distance %v, want %v, of %d subsets", c, kid.Value, *c.KID, kid.Resamples)
		}
	}
}

// coverage is how often intervals hold the mean of their values.
func coverage(all []Interval) (held, width, scatter float64) {
	var mean float64
	n := float64(len(all))
	for _, iv := range all {
		mean += iv.Value / n
	}
	for _, iv := range all {
		if iv.Low <= mean && mean <= iv.High {
			held += 1 / n
		}
		width += (iv.High - iv.Low) / 2 / 1.96 / n
		scatter += (iv.Value - mean) * (iv.Value - mean) / n
	}
	return held, width, math.Sqrt(scatter)
}

// Sets of known distance: intervals of every metric hold the value that is expected of as many samples.
func TestSetIntervalsCover(t *testing.T) {
	for _, c := range []struct {
		n, m, dims   int
		mean, spread float64
		subset       int
		kernel       float64 // least coverage of the kernel distance, whose tails are heavy in few dimensions
	}{{60, 80, 3, 0.4, 1.2, 0, 0.78}, {120, 100, 12, 0.15, 0.9, 60, 0.88}, {90, 100, 64, 0.1, 1.1, 0, 0.89}} {
		const sets = 120
		rng := rand.New(rand.NewPCG(11, uint64(c.n)))
		y := gaussian(rng, c.m, 0, decaying(c.dims, 1))
		real, err := NewManifold(y, 3)
		if err != nil {
			t.Fatal(err)
		}
		var kernel, precision, recall []Interval
		for i := range sets {
			opt := Resampling{Resamples: 200, Seed: uint64(i)}
			x := gaussian(rng, c.n, c.mean, decaying(c.dims, c.spread))
			k, err := KernelDistance(x, y, Subsets{Count: 40, Size: c.subset}, opt)
			if err != nil {
				t.Fatal(err)
			}
			gen, err := NewManifold(x, 3)
			if err != nil {
				t.Fatal(err)
			}
			p, r, err := PrecisionRecall(gen, real, opt)
			if err != nil {
				t.Fatal(err)
			}
			kernel, precision, recall = append(kernel, k), append(precision, p), append(recall, r)
		}
		for name, all := range map[string][]Interval{"kernel distance": kernel, "precision": precision, "recall": recall} {
			held, width, scatter := coverage(all)
			t.Logf("%+v %s: held %.3f, deviation %.4f, estimated %.4f", c, name, held, scatter, width)
			least := 0.89
			if name == "kernel distance" {
				least = c.kernel
			}
			if held < least || width > 2*scatter {
				t.Errorf("%+v: 95 %% intervals of the %s held its expectation in %.1f %% of sets; half as wide as 1.96·%.4f for a deviation of %.4f", c, name, 100*held, width, scatter)
			}
		}
	}
}

// The kernel distance is unbiased: zero for equal distributions, whatever the number of samples.
func TestKernelDistanceIsUnbiased(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var sum, squares float64
	const sets = 200
	for range sets {
		iv, err := KernelDistance(gaussian(rng, 20, 0, decaying(4, 1)), gaussian(rng, 20, 0, decaying(4, 1)), Subsets{}, Resampling{})
		if err != nil {
			t.Fatal(err)
		}
		sum, squares = sum+iv.Value, squares+iv.Value*iv.Value
	}
	mean := sum / sets
	if deviation := math.Sqrt(squares/sets-mean*mean) / math.Sqrt(sets); math.Abs(mean) > 4*deviation {
		t.Errorf("mean of equal distributions is %g ± %g", mean, deviation)
	}
}

func TestDiversity(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	deviations := decaying(16, 1)
	reference := diagonalReference(t, deviations)
	var same, random [][]float64
	var prompts []string
	for p := range 60 {
		first := gaussian(rng, 1, 0, deviations)[0]
		for range 4 {
			prompts = append(prompts, fmt.Sprint("prompt ", p))
			same, random = append(same, first), append(random, gaussian(rng, 1, 0, deviations)[0])
		}
	}
	none, err := Diversity(same, prompts, reference, Resampling{})
	if err != nil || none.Value != 0 || none.High != 0 {
		t.Errorf("one image per prompt: %+v, %v", none, err)
	}
	full, err := Diversity(random, prompts, reference, Resampling{})
	if err != nil || full.Value < 0.9 || full.Value > 1.02 || full.Samples != 240 || !(full.Low < full.Value && full.Value < full.High) {
		t.Errorf("images as different as the reference's: %+v, %v", full, err)
	}
	// By its influences it is as uncertain as its interval says.
	if d, ok := Difference(full, Interval{Samples: full.Samples, Influences: make([]float64, len(full.Influences))}, 0.95); !ok || math.Abs((d.High-d.Low)/(full.High-full.Low)-1) > 0.2 {
		t.Errorf("difference %+v of %+v", d, full)
	}
	// A prompt that was drawn once says nothing.
	more, err := Diversity(append(random, same[0]), append(prompts, "alone"), reference, Resampling{})
	if err != nil || !reflect.DeepEqual(more, full) {
		t.Errorf("with a lone image: %+v, %v, want %+v", more, err, full)
	}
	if _, err := Diversity(same[:2], []string{"a", "b"}, reference, Resampling{}); err == nil || Diverse([]string{"a", "b", "a"}) || !Diverse(prompts) {
		t.Errorf("error %v", err)
	}
}

func TestSetsBadInput(t *testing.T) {
	x, y := lcgFeatures(1, 20, 4, 0, 1), lcgFeatures(2, 20, 4, 0, 1)
	bad := lcgFeatures(1, 20, 4, 0, 1)
	bad[7][1] = math.Inf(1)
	real, err := NewManifold(y, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, infinite := KernelDistance(bad, y, Subsets{}, Resampling{})
	_, reference := KernelDistance(x, bad, Subsets{}, Resampling{})
	_, dims := KernelDistance(x, lcgFeatures(1, 20, 3, 0, 1), Subsets{}, Resampling{})
	_, few := KernelDistance(x[:2], y, Subsets{}, Resampling{})
	_, size := KernelDistance(x, y, Subsets{Size: 2}, Resampling{})
	_, small := NewManifold(x[:7], 3)
	_, broken := NewManifold(bad, 3)
	other, err := NewManifold(lcgFeatures(1, 20, 3, 0, 1), 3)
	if err != nil {
		t.Fatal(err)
	}
	_, _, different := PrecisionRecall(other, real, Resampling{})
	_, prompts := Diversity(x, []string{"a"}, diagonalReference(t, decaying(4, 1)), Resampling{})
	for want, err := range map[string]error{
		"feature 7 is +Inf in dimension 1": infinite, "reference: feature 7": reference, "reference has 3": dims, "at least 3 samples": few,
		"100 subsets of 2 samples": size, "among 7 samples": small, "feature 7 is": broken, "3 dimensions but the reference has 4": different,
		"20 images and 1 prompts": prompts,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func BenchmarkManifold(b *testing.B) {
	x := lcgFeatures(2, 2000, 256, 0.1, 1)
	for b.Loop() {
		if _, err := NewManifold(x, 3); err != nil {
			b.Fatal(err)
		}
	}
}
