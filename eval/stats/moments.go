// Package stats holds the statistics behind the evaluation: streaming moments
// of feature vectors, the Fréchet distance between two sets of features, the
// kernel distance, precision and recall, the diversity of a prompt's images,
// and intervals that say how far a printed number can be trusted.
//
// At FID's 2,048 dimensions, on two CPU cores: a distance of moments takes 8.7 s,
// one with its interval 39 s from 4,000 features and 1.5 s from 256.
//
//	go test ./eval/stats -run xxx -bench Features2048 -benchtime 1x
//
// Everything is float64 and deterministic: the same features, in the same
// order, with the same seed give the same bits on the same machine.
package stats

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/mat"
)

// Moments is the streaming mean and covariance of feature vectors.
//
// Batches are merged by the pairwise update of Chan, Golub and LeVeque
// ("Updating formulae and a pairwise algorithm for computing sample
// variances", 1979), so that a set may be split over devices and processes
// and merged afterwards. The zero value is not usable; see [NewMoments].
// A Moments is not safe for concurrent use.
type Moments struct {
	dims    int
	count   int64     // number of vectors; 0 with given set: unknown (read from a file)
	given   bool      // mean and covariance came from outside
	mean    []float64 // [dims]
	scatter []float64 // [dims, dims]: sum of (x-mean)(x-mean)ᵀ; the covariance itself if count is unknown
}

// NewMoments returns empty moments for vectors of the given number of
// dimensions.
func NewMoments(dims int) *Moments {
	dims = max(dims, 0)
	return &Moments{dims: dims, mean: make([]float64, dims), scatter: make([]float64, dims*dims)}
}

// MomentsOf returns the moments of features, [samples][dims].
func MomentsOf(features [][]float64) (*Moments, error) {
	if len(features) == 0 {
		return nil, errors.New("no features: nothing to take moments of")
	}
	m := NewMoments(len(features[0]))
	return m, m.AddBatch(features)
}

// FromMeanCovariance returns moments with a given mean and (unbiased, N-1)
// covariance. A count of 0 means that the number of samples is unknown, as in
// the statistics files of pytorch-fid and clean-fid; such moments can be
// compared but not added to.
func FromMeanCovariance(mean []float64, covariance mat.Symmetric, count int64) (*Moments, error) {
	dims := len(mean)
	if got := covariance.SymmetricDim(); got != dims {
		return nil, fmt.Errorf("mean has %d dimensions but covariance has %d", dims, got)
	}
	if count < 0 || count == 1 {
		return nil, fmt.Errorf("a covariance of %d samples is not defined: give 2 or more, or 0 for unknown", count)
	}
	scale := 1.0
	if count > 1 {
		scale = float64(count - 1)
	}
	m := NewMoments(dims)
	m.count, m.given = count, true
	copy(m.mean, mean)
	for i := range dims {
		if !isFinite(mean[i]) {
			return nil, fmt.Errorf("mean is %v in dimension %d", mean[i], i)
		}
		for j := range dims {
			v := covariance.At(i, j)
			if !isFinite(v) {
				return nil, fmt.Errorf("covariance is %v at (%d, %d)", v, i, j)
			}
			m.scatter[i*dims+j] = v * scale
		}
		if m.scatter[i*dims+i] < 0 {
			return nil, fmt.Errorf("covariance has the negative variance %g in dimension %d", covariance.At(i, i), i)
		}
	}
	return m, nil
}

// Dims is the number of dimensions of a feature vector.
func (m *Moments) Dims() int { return m.dims }

// Count is the number of vectors added; 0 when it is unknown.
func (m *Moments) Count() int64 { return m.count }

// Mean returns a copy of the mean, [dims].
func (m *Moments) Mean() []float64 { return append([]float64(nil), m.mean...) }

// Covariance returns the unbiased (N-1) covariance, as numpy.cov does.
// With fewer than two vectors it is zero.
func (m *Moments) Covariance() *mat.SymDense {
	out := mat.NewSymDense(max(m.dims, 1), nil)
	scale := m.covarianceScale()
	for i := range m.dims {
		for j := i; j < m.dims; j++ {
			out.SetSym(i, j, scale*0.5*(m.scatter[i*m.dims+j]+m.scatter[j*m.dims+i]))
		}
	}
	return out
}

func (m *Moments) covarianceScale() float64 {
	switch {
	case m.count > 1:
		return 1 / float64(m.count-1)
	case m.given:
		return 1
	}
	return 0
}

// maxRank bounds the rank of the covariance: N samples about their own mean
// span at most N-1 dimensions.
func (m *Moments) maxRank() int {
	if m.count > 1 && m.count-1 < int64(m.dims) {
		return int(m.count - 1)
	}
	return m.dims
}

// Add takes one feature vector, [dims]. A vector of another length or with a
// NaN or infinite element is refused and leaves the moments as they were.
func (m *Moments) Add(feature []float64) error {
	return m.AddBatch([][]float64{feature})
}

// AddBatch takes feature vectors, [samples][dims]. Either all are taken or,
// with an error that names the first bad one by its place in the batch, none.
func (m *Moments) AddBatch(features [][]float64) error {
	if len(features) == 0 {
		return nil
	}
	if err := checkFeatures(features, m.dims); err != nil {
		return err
	}
	flat := make([]float64, 0, len(features)*m.dims)
	for _, f := range features {
		flat = append(flat, f...)
	}
	return m.addFlat(flat, len(features))
}

// AddFloat32 takes a batch as a network returns it: row-major
// [samples, dims] float32.
func (m *Moments) AddFloat32(flat []float32) error {
	if m.dims == 0 || len(flat)%m.dims != 0 {
		return fmt.Errorf("batch of %d values is not a whole number of %d-dimensional features", len(flat), m.dims)
	}
	if len(flat) == 0 {
		return nil
	}
	wide := make([]float64, len(flat))
	for i, v := range flat {
		wide[i] = float64(v)
		if !isFinite(wide[i]) {
			return fmt.Errorf("feature %d is %v in dimension %d", i/m.dims, v, i%m.dims)
		}
	}
	return m.addFlat(wide, len(flat)/m.dims)
}

// addFlat merges a batch of checked vectors, [n, dims] row-major, which it
// overwrites.
func (m *Moments) addFlat(x []float64, n int) error {
	if m.given && m.count == 0 {
		return errors.New("statistics without a sample count cannot be added to: recompute them from the images")
	}
	d := m.dims
	batch := NewMoments(d)
	batch.count = int64(n)
	for i := range n {
		for j, v := range x[i*d : (i+1)*d] {
			batch.mean[j] += v
		}
	}
	for j := range batch.mean {
		batch.mean[j] /= float64(n)
	}
	for i := range n {
		row := x[i*d : (i+1)*d]
		for j := range row {
			row[j] -= batch.mean[j]
		}
	}
	xm := blas64.General{Rows: n, Cols: d, Stride: d, Data: x}
	blas64.Gemm(blas.Trans, blas.NoTrans, 1, xm, xm, 0, blas64.General{Rows: d, Cols: d, Stride: d, Data: batch.scatter})
	return m.Merge(batch)
}

// Merge takes all samples of other, as if they had been added one by one.
func (m *Moments) Merge(other *Moments) error {
	if m.dims != other.dims {
		return fmt.Errorf("cannot merge features of %d dimensions with features of %d", m.dims, other.dims)
	}
	if (m.given && m.count == 0) || (other.given && other.count == 0) {
		return errors.New("statistics without a sample count cannot be merged: recompute them from the images")
	}
	if other.count == 0 {
		return nil
	}
	na, nb := float64(m.count), float64(other.count)
	total := na + nb
	delta := make([]float64, m.dims)
	for j := range delta {
		delta[j] = other.mean[j] - m.mean[j]
	}
	weight := na * nb / total
	for i, di := range delta {
		row, add := m.scatter[i*m.dims:(i+1)*m.dims], other.scatter[i*m.dims:(i+1)*m.dims]
		w := weight * di
		for j := range row {
			row[j] += add[j] + w*delta[j]
		}
		m.mean[i] += di * nb / total
	}
	m.count += other.count
	return nil
}

// checkFeatures requires vectors of dims finite elements.
func checkFeatures(features [][]float64, dims int) error {
	if dims == 0 {
		return errors.New("features have no dimensions")
	}
	for i, f := range features {
		if len(f) != dims {
			return fmt.Errorf("feature %d has %d dimensions, want %d", i, len(f), dims)
		}
		for j, v := range f {
			if !isFinite(v) {
				return fmt.Errorf("feature %d is %v in dimension %d", i, v, j)
			}
		}
	}
	return nil
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
