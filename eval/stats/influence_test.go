package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// Quadratic forms against eigenvectors, of a covariance that is nearly singular, and of a start that spans little.
func TestQuadraticForms(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	const dims = 120
	deviations := make([]float64, dims)
	for j := range deviations {
		deviations[j] = math.Pow(10, -4*float64(j)/dims) // eigenvalues over eight decades
	}
	x := gaussian(rng, 400, 0, deviations)
	m, err := MomentsOf(x)
	if err != nil {
		t.Fatal(err)
	}
	a := mat.DenseCopyOf(m.Covariance())
	var eig mat.EigenSym
	if !eig.Factorize(m.Covariance(), true) {
		t.Fatal("no eigenvectors")
	}
	var vectors mat.Dense
	eig.VectorsTo(&vectors)
	starts := mat.NewDense(dims, 22, nil)
	for k := range 20 {
		starts.SetCol(k, x[k])
	}
	starts.SetCol(20, mat.Col(nil, dims-1, &vectors)) // one Lanczos step is enough; column 21 is zero
	for name, f := range map[string]func(float64) float64{
		"1/√x": func(v float64) float64 { return 1 / math.Sqrt(v) }, "√x": math.Sqrt,
	} {
		got, err := quadraticForms(a, starts, f)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 22 {
			var want float64
			for j, v := range eig.Values(nil) {
				along := mat.Dot(starts.ColView(k), vectors.ColView(j))
				want += along * along * f(v)
			}
			if !(math.Abs(got[k]-want) <= 0.02*want) {
				t.Errorf("%s of start %d is %g, want %g", name, k, got[k], want)
			}
		}
	}
}

// The root of a covariance of few samples, whether or not their number is known, gives it back.
func TestCovarianceRootOfLowRank(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 2))
	m, err := MomentsOf(gaussian(rng, 30, 1, decaying(90, 1)))
	if err != nil {
		t.Fatal(err)
	}
	c := m.Covariance()
	for _, rank := range []int{29, 90} {
		root := pivotedRoot(c, rank)
		if root == nil {
			t.Fatalf("no root of rank %d", rank)
		}
		if _, columns := root.Dims(); columns != 29 {
			t.Errorf("%d columns of at most %d, want 29", columns, rank)
		}
	}
	if pivotedRoot(c, 20) != nil {
		t.Error("20 columns cannot give 29 dimensions back")
	}
	c.SetSym(3, 3, -1)
	if pivotedRoot(c, 90) != nil {
		t.Error("a matrix that is not a covariance has a root")
	}
}

// Features of FID's size. See the package comment for figures.
func BenchmarkFeatures2048(b *testing.B) {
	const dims = 2048
	rng := rand.New(rand.NewPCG(1, 2))
	real := gaussian(rng, 4000, 0, decaying(dims, 1))
	reference, _ := MomentsOf(real)
	for _, n := range []int{256, 4000} {
		x := gaussian(rng, n, 0.1, decaying(dims, 1.1))
		m, _ := MomentsOf(x)
		run := func(name string, f func() error) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					if err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("moments", func() error { _, err := MomentsOf(x); return err })
		run("distance", func() error { _, err := Frechet(m, reference); return err })
		run("interval", func() error { _, err := FrechetInterval(x, reference, Resampling{}); return err })
		run("kernel", func() error {
			_, err := KernelDistance(x, real, Subsets{Count: 10}, Resampling{})
			return err
		})
		run("manifold", func() error { _, err := NewManifold(x, 3); return err })
	}
}
