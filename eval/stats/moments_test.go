package stats

import (
	"math"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// twoPass is the textbook mean and N-1 covariance.
func twoPass(x [][]float64) ([]float64, *mat.SymDense) {
	d := len(x[0])
	mean, cov := make([]float64, d), mat.NewSymDense(d, nil)
	for _, row := range x {
		for j, v := range row {
			mean[j] += v / float64(len(x))
		}
	}
	for i := range d {
		for j := i; j < d; j++ {
			var s float64
			for _, row := range x {
				s += (row[i] - mean[i]) * (row[j] - mean[j])
			}
			cov.SetSym(i, j, s/float64(len(x)-1))
		}
	}
	return mean, cov
}

func requireMoments(t *testing.T, name string, m *Moments, x [][]float64) {
	t.Helper()
	mean, cov := twoPass(x)
	if m.Count() != int64(len(x)) {
		t.Fatalf("%s: count %d, want %d", name, m.Count(), len(x))
	}
	for j, want := range mean {
		if got := m.Mean()[j]; math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
			t.Fatalf("%s: mean[%d] = %v, want %v", name, j, got, want)
		}
	}
	got := m.Covariance()
	for i := range mean {
		for j := range mean {
			if math.Abs(got.At(i, j)-cov.At(i, j)) > 1e-9 {
				t.Fatalf("%s: covariance(%d, %d) = %v, want %v", name, i, j, got.At(i, j), cov.At(i, j))
			}
		}
	}
}

// A mean of 1e5 with unit deviations loses ten digits in the naive sum of
// squares; the merge keeps them.
func TestMomentsHoweverTheSetIsSplit(t *testing.T) {
	x := lcgFeatures(11, 101, 5, 1e5, 1)
	whole, err := MomentsOf(x)
	if err != nil {
		t.Fatal(err)
	}
	requireMoments(t, "whole", whole, x)

	single := NewMoments(5)
	for _, row := range x {
		if err := single.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	requireMoments(t, "one by one", single, x)

	left, right, empty := NewMoments(5), NewMoments(5), NewMoments(5)
	for _, step := range []error{left.AddBatch(x[:30]), left.AddBatch(x[30:31]), right.AddBatch(x[31:]), empty.Merge(right), left.Merge(empty)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	requireMoments(t, "merged", left, x)

	narrow := NewMoments(2)
	if err := narrow.AddFloat32([]float32{1, 2, 3, 5, 8, 13}); err != nil {
		t.Fatal(err)
	}
	requireMoments(t, "float32", narrow, [][]float64{{1, 2}, {3, 5}, {8, 13}})
}

func TestMomentsRefuseBadInput(t *testing.T) {
	m := NewMoments(2)
	if err := m.AddBatch([][]float64{{1, 2}, {3, 4}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"NaN":      {m.AddBatch([][]float64{{5, 6}, {7, math.NaN()}}), "feature 1 is NaN in dimension 1"},
		"infinite": {m.Add([]float64{math.Inf(1), 0}), "feature 0 is +Inf"},
		"length":   {m.Add([]float64{1}), "has 1 dimensions, want 2"},
		"float32":  {m.AddFloat32([]float32{1, 2, 3}), "not a whole number"},
		"NaN32":    {m.AddFloat32([]float32{1, float32(math.NaN())}), "is NaN in dimension 1"},
		"merge":    {m.Merge(NewMoments(3)), "cannot merge"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, c.err, c.want)
		}
	}
	requireMoments(t, "after refusals", m, [][]float64{{1, 2}, {3, 4}})
	if _, err := MomentsOf(nil); err == nil {
		t.Error("moments of nothing were given")
	}
}
