package stats

import (
	"errors"
	"fmt"
	"math"
	"sort"

	"gonum.org/v1/gonum/mat"
)

// Frechet returns the (squared) Fréchet distance between the Gaussians with
// the given moments, the quantity that FID reports:
//
//	|µa-µb|² + tr Σa + tr Σb - 2 tr sqrt(Σa Σb)
//
// tr sqrt(Σa Σb) is the sum of the roots of the eigenvalues of LᵀΣbL with
// Σa = LLᵀ: a symmetric problem, so nothing complex arises and nothing is
// added to the diagonals. Where neither covariance is positive definite, L is
// the root V·sqrt(D) of Σa = VDVᵀ instead. Eigenvalues beyond the rank that
// the sample counts allow are rounding noise and are left out.
//
// When features are at hand and fewer than their dimensions,
// [FrechetFeatures] is cheaper.
func Frechet(a, b *Moments) (float64, error) {
	if err := checkComparable(a, b); err != nil {
		return 0, err
	}
	ca, cb := a.Covariance(), b.Covariance()
	root, err := covarianceRoot(ca, a.maxRank())
	if err != nil {
		return 0, err
	}
	var tmp, product mat.Dense
	tmp.Mul(root.T(), mat.DenseCopyOf(cb))
	product.Mul(&tmp, root)
	eigen, err := symmetricEigenvalues(&product)
	if err != nil {
		return 0, err
	}
	traceRoot := sumOfRoots(eigen, min(a.maxRank(), b.maxRank()))
	return frechetFromParts(squaredDistance(a.mean, b.mean), mat.Trace(ca), mat.Trace(cb), traceRoot)
}

// FrechetFeatures returns the Fréchet distance between the features
// a, [na][dims], and b, [nb][dims].
//
// With fewer samples than dimensions on both sides, tr sqrt(Σa Σb) is the
// nuclear norm of AcBcᵀ / sqrt((na-1)(nb-1)) with Ac, Bc the centred features:
// exact, and an na×nb problem whatever the number of dimensions. Otherwise it
// is [Frechet] of the moments.
func FrechetFeatures(a, b [][]float64) (float64, error) {
	if len(a) < 2 || len(b) < 2 {
		return 0, fmt.Errorf("a Fréchet distance needs at least 2 samples on each side, got %d and %d", len(a), len(b))
	}
	dims := len(a[0])
	if len(b[0]) != dims {
		return 0, fmt.Errorf("features have %d dimensions on one side and %d on the other: they come from different networks or layers", dims, len(b[0]))
	}
	if err := checkFeatures(a, dims); err != nil {
		return 0, fmt.Errorf("first set: %w", err)
	}
	if err := checkFeatures(b, dims); err != nil {
		return 0, fmt.Errorf("second set: %w", err)
	}
	if len(a) > dims || len(b) > dims {
		ma, err := MomentsOf(a)
		if err != nil {
			return 0, err
		}
		mb, err := MomentsOf(b)
		if err != nil {
			return 0, err
		}
		return Frechet(ma, mb)
	}
	ac, meanA, traceA := centred(a)
	bc, meanB, traceB := centred(b)
	var cross mat.Dense
	cross.Mul(ac, bc.T())
	var svd mat.SVD
	if !svd.Factorize(&cross, mat.SVDNone) {
		return 0, errors.New("singular values of the feature product did not converge")
	}
	values := svd.Values(nil)
	var nuclear float64
	for _, s := range values[:min(len(values), len(a)-1, len(b)-1)] {
		nuclear += s
	}
	return frechetFromParts(squaredDistance(meanA, meanB), traceA, traceB, nuclear)
}

func checkComparable(a, b *Moments) error {
	if a.dims != b.dims {
		return fmt.Errorf("features have %d dimensions on one side and %d on the other: they come from different networks or layers", a.dims, b.dims)
	}
	if a.dims == 0 {
		return errors.New("features have no dimensions")
	}
	for _, m := range []*Moments{a, b} {
		if m.count < 2 && !m.given {
			return fmt.Errorf("a Fréchet distance needs at least 2 samples on each side, got %d and %d", a.count, b.count)
		}
	}
	return nil
}

// centred returns (x-mean)/sqrt(n-1) as [n, dims], the mean, and the trace of
// the covariance.
func centred(features [][]float64) (x *mat.Dense, mean []float64, trace float64) {
	n, dims := len(features), len(features[0])
	mean = make([]float64, dims)
	for _, f := range features {
		for j, v := range f {
			mean[j] += v
		}
	}
	for j := range mean {
		mean[j] /= float64(n)
	}
	scale := 1 / math.Sqrt(float64(n-1))
	data := make([]float64, n*dims)
	for i, f := range features {
		for j, v := range f {
			c := (v - mean[j]) * scale
			data[i*dims+j] = c
			trace += c * c
		}
	}
	return mat.NewDense(n, dims, data), mean, trace
}

// covarianceRoot returns R, [dims, r], with RRᵀ = c: the Cholesky factor where
// c is positive definite, otherwise the eigenvectors of the largest (at most
// maxRank) eigenvalues times the roots of these.
func covarianceRoot(c *mat.SymDense, maxRank int) (*mat.Dense, error) {
	dims := c.SymmetricDim()
	var chol mat.Cholesky
	if maxRank >= dims && chol.Factorize(c) {
		var l mat.TriDense
		chol.LTo(&l)
		return mat.DenseCopyOf(&l), nil
	}
	if root := pivotedRoot(c, maxRank); root != nil {
		return root, nil
	}
	var eig mat.EigenSym
	if !eig.Factorize(c, true) {
		return nil, errors.New("eigenvalues of a covariance did not converge")
	}
	values := eig.Values(nil) // ascending
	var vectors mat.Dense
	eig.VectorsTo(&vectors)
	top := values[dims-1]
	if values[0] < -1e-6*math.Max(top, 0) || top < 0 {
		return nil, fmt.Errorf("matrix is not a covariance: its eigenvalues go from %g to %g", values[0], top)
	}
	floor := top * float64(dims) * 0x1p-52
	first := dims - max(1, min(maxRank, dims))
	for first < dims-1 && values[first] <= floor {
		first++
	}
	root := mat.NewDense(dims, dims-first, nil)
	for j := first; j < dims; j++ {
		s := math.Sqrt(math.Max(values[j], 0))
		for i := range dims {
			root.Set(i, j-first, vectors.At(i, j)*s)
		}
	}
	return root, nil
}

// pivotedRoot is the root of a covariance of low rank by Cholesky's method with pivoting, which is hundreds of times
// faster than eigenvectors; nil where it does not give the matrix back.
func pivotedRoot(c *mat.SymDense, maxRank int) *mat.Dense {
	dims := c.SymmetricDim()
	var chol mat.PivotedCholesky
	chol.Factorize(c, -1)
	rank := max(1, min(chol.Rank(), maxRank))
	var u mat.TriDense
	chol.UTo(&u)
	pivots := chol.ColumnPivots(nil)
	root := mat.NewDense(dims, rank, nil)
	for j, p := range pivots {
		for k := range min(rank, j+1) {
			root.Set(p, k, u.At(k, j))
		}
	}
	var back mat.Dense
	back.Mul(root, root.T())
	tolerance := 1e-9 * mat.Trace(c) / float64(dims)
	for i := range dims {
		for j, v := range back.RawRowView(i) {
			if !(math.Abs(v-c.At(i, j)) <= tolerance) {
				return nil
			}
		}
	}
	return root
}

// symmetricEigenvalues returns the eigenvalues of the symmetric part of a,
// ascending.
func symmetricEigenvalues(a *mat.Dense) ([]float64, error) {
	n, _ := a.Dims()
	sym := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			sym.SetSym(i, j, 0.5*(a.At(i, j)+a.At(j, i)))
		}
	}
	var eig mat.EigenSym
	if !eig.Factorize(sym, false) {
		return nil, errors.New("eigenvalues of the covariance product did not converge")
	}
	return eig.Values(nil), nil
}

// sumOfRoots adds the square roots of the rank largest eigenvalues; what
// rounding made negative counts as zero.
func sumOfRoots(eigen []float64, rank int) float64 {
	sort.Float64s(eigen)
	var sum float64
	for _, v := range eigen[max(0, len(eigen)-rank):] {
		if v > 0 {
			sum += math.Sqrt(v)
		}
	}
	return sum
}

func frechetFromParts(meanTerm, traceA, traceB, traceRoot float64) (float64, error) {
	v := meanTerm + traceA + traceB - 2*traceRoot
	if !isFinite(v) {
		return 0, fmt.Errorf("Fréchet distance overflows: mean term %g, traces %g and %g", meanTerm, traceA, traceB)
	}
	return math.Max(v, 0), nil
}

func squaredDistance(a, b []float64) float64 {
	var sum float64
	for i := range a {
		sum += (a[i] - b[i]) * (a[i] - b[i])
	}
	return sum
}
