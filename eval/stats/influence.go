package stats

import (
	"errors"
	"math"
	"sort"

	"gonum.org/v1/gonum/mat"
)

// resampledSize is the size of an eigenproblem beyond which an interval is made from influences: hundreds of resamples
// of 2,048 dimensions would take an hour.
const resampledSize = 300

// influenceIntervals returns the interval of the first set's distance and, given a second set, of the difference first
// minus second, from the influence that each sample has on a distance (the infinitesimal jackknife, Jaeckel 1972): the
// variance is the sum of the influences' squares over n², the interval normal, the bias the mean excess of the two
// halves of one random split.
func influenceIntervals(sets []*measuredSet, n int, opt Resampling) ([]Interval, error) {
	whole := make([]int, n)
	for i := range whole {
		whole[i] = i
	}
	opt.source(0).Shuffle(n, func(i, j int) { whole[i], whole[j] = whole[j], whole[i] })
	halves := [2][]int{whole[:n/2], whole[n/2:]}
	for _, h := range halves {
		sort.Ints(h)
	}
	z := normalQuantile((1 + opt.Level) / 2)
	out := make([]Interval, len(sets))
	var before []float64
	for k, s := range sets {
		value, influences, err := s.influences()
		if err != nil {
			return nil, err
		}
		iv := Interval{Value: value, Samples: n, Method: ByInfluence, Bias: -value}
		for _, h := range halves {
			v, err := s.distance(h)
			if err != nil {
				return nil, err
			}
			iv.Bias += v / 2
		}
		if k == 1 {
			iv.Value, iv.Bias = out[0].Value-iv.Value, out[0].Bias-iv.Bias
			for i := range influences {
				influences[i] = before[i] - influences[i]
			}
		}
		var squares float64
		for _, v := range influences {
			squares += v * v
		}
		deviation := math.Sqrt(squares) / float64(n)
		iv.Low, iv.High = iv.Value-z*deviation, iv.Value+z*deviation
		out[k], before = iv, influences
	}
	return out, nil
}

// influences returns the distance of all samples and what each one adds to it. Around the samples' own moments µ, Σ
// the distance changes by the mean over added samples x of
//
//	2(µ-µref)·(x-µ) + (x-µ)ᵀ(I-T)(x-µ) - tr Σ(I-T)
//
// where T = R(RᵀΣR)^-½Rᵀ, RRᵀ = Σref, carries one Gaussian to the other.
func (s *measuredSet) influences() (distance float64, influences []float64, err error) {
	dims := s.ruler.reference.dims
	n := len(s.x) / dims
	whole := make([]int, n)
	for i := range whole {
		whole[i] = i
	}
	mean, meanTerm, trace := s.firstMoments(whole)
	roots, carried, err := s.carried(whole)
	if err != nil {
		return 0, nil, err
	}
	influences = make([]float64, n)
	for i := range influences {
		influences[i] = roots - trace - carried[i]
		for j, v := range s.x[i*dims : (i+1)*dims] {
			d := v - mean[j]
			influences[i] += 2*mean[j]*d + d*d
		}
	}
	distance, err = frechetFromParts(meanTerm, trace, s.ruler.trace, roots)
	return distance, influences, err
}

// carried returns tr sqrt(Σ Σref) and, for each of all samples, (x-µ)ᵀT(x-µ).
func (s *measuredSet) carried(all []int) (roots float64, carried []float64, err error) {
	n, r := s.z.Dims()
	carried = make([]float64, n)
	var product *mat.Dense
	if s.gram != nil {
		product = centredGram(s.gram, all)
	} else {
		product = centredScatter(s.z, all)
	}
	size, _ := product.Dims()
	values, vectors, err := symmetricEigen(product, 1/float64(n-1))
	if err != nil {
		return 0, nil, err
	}
	first := size - min(size, n-1, r)
	for first < size && values[first] <= values[size-1]*float64(size)*0x1p-52 {
		first++
	}
	for _, v := range values[first:] {
		roots += math.Sqrt(v)
	}
	if s.gram != nil {
		for i := range n {
			row := vectors.RawRowView(i)
			for k := first; k < size; k++ {
				carried[i] += float64(n-1) * math.Sqrt(values[k]) * row[k] * row[k]
			}
		}
		return roots, carried, nil
	}
	var along mat.Dense
	along.Mul(centredRows(s.z, all), vectors)
	for i := range n {
		row := along.RawRowView(i)
		for k := first; k < size; k++ {
			carried[i] += row[k] * row[k] / math.Sqrt(values[k])
		}
	}
	return roots, carried, nil
}

// symmetricEigen returns the eigenvalues, ascending, and eigenvectors (columns) of scale times the symmetric part of a.
func symmetricEigen(a *mat.Dense, scale float64) ([]float64, *mat.Dense, error) {
	n, _ := a.Dims()
	sym := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			sym.SetSym(i, j, 0.5*scale*(a.At(i, j)+a.At(j, i)))
		}
	}
	var eig mat.EigenSym
	if !eig.Factorize(sym, true) {
		return nil, nil, errors.New("eigenvalues of the covariance product did not converge")
	}
	var vectors mat.Dense
	eig.VectorsTo(&vectors)
	return eig.Values(nil), &vectors, nil
}

// normalQuantile is the standard normal distribution's.
func normalQuantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
