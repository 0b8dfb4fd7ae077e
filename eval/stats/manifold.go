package stats

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"gonum.org/v1/gonum/mat"
)

// neighbours are kept for each sample, so that its k-th nearest among a part of the samples is known too.
const neighbours = 48

// blockRows of a distance matrix are made at a time.
const blockRows = 256

// Manifold is a set of features seen as the union of balls around them, each as large as the distance to its k-th
// nearest neighbour (Kynkäänniemi et al. 2019, "Improved precision and recall").
type Manifold struct {
	features *mat.Dense
	squares  []float64     // |feature|²
	nearest  [][]neighbour // by sample, nearest first, without itself
	k        int
}

type neighbour struct {
	sample   int32
	distance float32
}

// NewManifold measures all distances within features, [n][dims]. k is usually 3.
func NewManifold(features [][]float64, k int) (*Manifold, error) {
	n := len(features)
	if k < 1 || k > neighbours/4 || n < 2*k+2 {
		return nil, fmt.Errorf("balls to the %d-th neighbour among %d samples: give 1 to %d, and at least %d samples", k, n, neighbours/4, 2*k+2)
	}
	if err := checkFeatures(features, len(features[0])); err != nil {
		return nil, err
	}
	m := &Manifold{features: mat.NewDense(n, len(features[0]), nil), squares: make([]float64, n), nearest: make([][]neighbour, n), k: k}
	for i, f := range features {
		m.features.SetRow(i, f)
		for _, v := range f {
			m.squares[i] += v * v
		}
	}
	m.distances(m, func(i int, row []float32) {
		all := make([]neighbour, 0, n-1)
		for j, d := range row {
			if j != i {
				all = append(all, neighbour{int32(j), d})
			}
		}
		slices.SortFunc(all, func(a, b neighbour) int {
			if a.distance != b.distance {
				if a.distance < b.distance {
					return -1
				}
				return 1
			}
			return int(a.sample - b.sample)
		})
		m.nearest[i] = slices.Clone(all[:min(len(all), neighbours)])
	})
	return m, nil
}

// distances calls row with the distances from each sample of m to all of other, from several goroutines.
func (m *Manifold) distances(other *Manifold, row func(i int, to []float32)) {
	n, dims := m.features.Dims()
	count, _ := other.features.Dims()
	var product mat.Dense
	for start := 0; start < n; start += blockRows {
		end := min(start+blockRows, n)
		product.Reset()
		product.Mul(m.features.Slice(start, end, 0, dims), other.features.T())
		var workers sync.WaitGroup
		step := (end - start + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
		for first := start; first < end; first += step {
			workers.Go(func() {
				to := make([]float32, count)
				for i := first; i < min(first+step, end); i++ {
					for j, v := range product.RawRowView(i - start) {
						to[j] = float32(math.Sqrt(max(m.squares[i]+other.squares[j]-2*v, 0)))
					}
					row(i, to)
				}
			})
		}
		workers.Wait()
	}
}

// radius is the distance from a sample to its k-th nearest neighbour among those that are in.
func (m *Manifold) radius(i int, in []bool) float32 {
	left := m.k
	list := m.nearest[i]
	for _, n := range list {
		if in == nil || in[n.sample] {
			if left--; left == 0 {
				return n.distance
			}
		}
	}
	return list[len(list)-1].distance
}

// PrecisionRecall returns the part of the generated samples that lie on the manifold of the real ones (quality), and
// the part of the real samples that lie on that of the generated ones (coverage). Both depend on the numbers of
// samples: compare equal ones only.
//
// The intervals are for other generated samples with the real ones fixed. Precision's is the bootstrap's; recall's
// comes from up to 200 random parts of the generated samples, 7 tenths each, as [FrechetInterval]'s does from halves:
// a half's manifold is so much coarser that its recall varies too little. On Gaussian data (200 sets each, nominal
// 95 %) precision's held the expected value in 95 % (60 samples, 3 dimensions), 93 % (100, 8) and 95 % (200, 16) of
// the sets, recall's in 97, 97 and 96 %.
func PrecisionRecall(generated, real *Manifold, opt Resampling) (precision, recall Interval, err error) {
	if opt, err = opt.withDefaults(); err != nil {
		return precision, recall, err
	}
	n, dims := generated.features.Dims()
	m, other := real.features.Dims()
	if dims != other {
		return precision, recall, fmt.Errorf("features have %d dimensions but the reference has %d: they come from different networks or layers", dims, other)
	}
	inside := make([]float64, n)
	between := make([][]float32, n) // to the real samples
	radii := make([]float32, m)
	for i := range radii {
		radii[i] = real.radius(i, nil)
	}
	generated.distances(real, func(i int, to []float32) {
		between[i] = slices.Clone(to)
		for j, d := range to {
			if d <= radii[j] {
				inside[i] = 1
				break
			}
		}
	})
	if precision, err = MeanInterval(inside, opt); err != nil {
		return precision, recall, err
	}
	covered := func(in []bool) float64 {
		hit := make([]bool, m)
		for i, to := range between {
			if in != nil && !in[i] {
				continue
			}
			r := generated.radius(i, in)
			for j, d := range to {
				if d <= r {
					hit[j] = true
				}
			}
		}
		count := 0
		for _, h := range hit {
			if h {
				count++
			}
		}
		return float64(count) / float64(m)
	}
	parts := make([]float64, min(opt.Resamples, 200))
	keep := n * 7 / 10
	var workers sync.WaitGroup
	next := make(chan int)
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		workers.Go(func() {
			for r := range next {
				in := make([]bool, n)
				for _, i := range opt.source(r).Perm(n)[:keep] {
					in[i] = true
				}
				parts[r] = covered(in)
			}
		})
	}
	for r := range parts {
		next <- r
	}
	close(next)
	workers.Wait()
	recall = halfSampleInterval(covered(nil), parts, n, keep, opt)
	recall.Low, recall.High = max(recall.Low, 0), min(recall.High, 1)
	return precision, recall, nil
}
