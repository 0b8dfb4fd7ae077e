package stats

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
)

// lcgFeatures rebuilds the features of testdata/golden.py.
func lcgFeatures(seed uint64, n, dims int, shift, spread float64) [][]float64 {
	out := make([][]float64, n)
	for i := range out {
		row := make([]float64, dims)
		for j := range row {
			seed = seed*6364136223846793005 + 1442695040888963407
			u := float64(seed>>11)/(1<<53) - 0.5
			row[j] = u * spread / float64(1+j%7)
			if j > 0 {
				row[j] += 0.5 * row[j-1]
			}
		}
		out[i] = row
	}
	for _, row := range out {
		for j := range row {
			row[j] += shift
		}
	}
	return out
}

type goldenCase struct {
	NA, NB, Dims  int
	Shift, Spread float64
	Method        string
	Value         float64
}

func TestFrechetAgreesWithScipy(t *testing.T) {
	raw, err := os.ReadFile("testdata/frechet.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []goldenCase
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 8 {
		t.Fatalf("only %d golden cases", len(cases))
	}
	for _, c := range cases {
		a, b := lcgFeatures(1, c.NA, c.Dims, 0, 1), lcgFeatures(2, c.NB, c.Dims, c.Shift, c.Spread)
		ma, _ := MomentsOf(a)
		mb, _ := MomentsOf(b)
		values := map[string]func() (float64, error){
			"moments":          func() (float64, error) { return Frechet(ma, mb) },
			"moments swapped":  func() (float64, error) { return Frechet(mb, ma) },
			"features":         func() (float64, error) { return FrechetFeatures(a, b) },
			"features swapped": func() (float64, error) { return FrechetFeatures(b, a) },
		}
		for name, f := range values {
			got, err := f()
			if err != nil {
				t.Errorf("%+v by %s: %v", c, name, err)
			} else if rel := math.Abs(got-c.Value) / c.Value; !(rel < 1e-6) {
				t.Errorf("%d and %d samples × %d by %s: %.12g, want %.12g (relative error %.1e)", c.NA, c.NB, c.Dims, name, got, c.Value, rel)
			}
		}
	}
}

func TestFrechetOfEqualSetsIsZero(t *testing.T) {
	for _, n := range []int{10, 100} {
		x := lcgFeatures(7, n, 24, 0, 1)
		m, _ := MomentsOf(x)
		for name, f := range map[string]func() (float64, error){
			"moments":  func() (float64, error) { return Frechet(m, m) },
			"features": func() (float64, error) { return FrechetFeatures(x, x) },
		} {
			if v, err := f(); err != nil || v < 0 || v > 1e-9 {
				t.Errorf("%d samples by %s: %g, %v", n, name, v, err)
			}
		}
	}
}

func TestFrechetConstantFeatures(t *testing.T) {
	flat := [][]float64{{1, 2}, {1, 2}, {1, 2}, {1, 2}}
	moved := [][]float64{{4, 6}, {4, 6}, {4, 6}, {4, 6}}
	if v, err := FrechetFeatures(flat, moved); err != nil || math.Abs(v-25) > 1e-12 {
		t.Errorf("got %v, %v, want 25: only the means differ", v, err)
	}
}

func TestFrechetBadInput(t *testing.T) {
	good := lcgFeatures(1, 8, 4, 0, 1)
	bad := lcgFeatures(1, 8, 4, 0, 1)
	bad[5][2] = math.NaN()
	for _, c := range []struct {
		name, want string
		a, b       [][]float64
	}{
		{"NaN", "second set: feature 5 is NaN in dimension 2", good, bad},
		{"dimensions", "4 dimensions on one side and 3 on the other", good, lcgFeatures(1, 8, 3, 0, 1)},
		{"one sample", "at least 2 samples", good, good[:1]},
		{"no samples", "at least 2 samples", nil, good},
		{"ragged", "feature 1 has 3 dimensions, want 4", good, [][]float64{{1, 2, 3, 4}, {1, 2, 3}}},
	} {
		if _, err := FrechetFeatures(c.a, c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	one := NewMoments(4)
	if err := one.Add(good[0]); err != nil {
		t.Fatal(err)
	}
	full, _ := MomentsOf(good)
	if _, err := Frechet(one, full); err == nil || !strings.Contains(err.Error(), "at least 2 samples") {
		t.Errorf("one sample: error %v", err)
	}
	other, _ := MomentsOf(lcgFeatures(1, 8, 3, 0, 1))
	if _, err := Frechet(other, full); err == nil || !strings.Contains(err.Error(), "3 dimensions") {
		t.Errorf("dimensions: error %v", err)
	}
}

// Blurring information away must cost: a set with half of its spread is far
// from the whole, and the distance of a pure shift is the shift squared.
func TestFrechetKnownDistances(t *testing.T) {
	x := lcgFeatures(3, 500, 12, 0, 1)
	shifted, shrunk := make([][]float64, len(x)), make([][]float64, len(x))
	m, _ := MomentsOf(x)
	mean := m.Mean()
	for i, row := range x {
		shifted[i], shrunk[i] = make([]float64, 12), make([]float64, 12)
		for j, v := range row {
			shifted[i][j] = v + 0.25
			shrunk[i][j] = mean[j] + 0.5*(v-mean[j])
		}
	}
	if v, err := FrechetFeatures(x, shifted); err != nil || math.Abs(v-12*0.0625) > 1e-9 {
		t.Errorf("shift: %v, %v, want %v", v, err, 12*0.0625)
	}
	var trace float64
	c := m.Covariance()
	for j := range 12 {
		trace += c.At(j, j)
	}
	if v, err := FrechetFeatures(x, shrunk); err != nil || math.Abs(v-0.25*trace) > 1e-9 {
		t.Errorf("half the spread: %v, %v, want a quarter of the trace %v", v, err, 0.25*trace)
	}
}

func BenchmarkFrechet256(b *testing.B) {
	ma, _ := MomentsOf(lcgFeatures(1, 1024, 256, 0, 1))
	mb, _ := MomentsOf(lcgFeatures(2, 1024, 256, 0.1, 1))
	for b.Loop() {
		if _, err := Frechet(ma, mb); err != nil {
			b.Fatal(err)
		}
	}
}
