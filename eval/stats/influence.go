package stats

import (
	"errors"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/gonum/mat"
)

// resampledSize is the size of an eigenproblem beyond which an interval is made from influences: hundreds of resamples
// of 2,048 dimensions would take an hour.
const resampledSize = 300

// influenceInterval returns the interval of the set's distance from the influence that single samples have on it (the
// infinitesimal jackknife, Jaeckel 1972): the variance is the mean of the influences' squares over n, the interval
// normal, the bias the mean excess of the two halves of one random split.
func (s *measuredSet) influenceInterval(n int, opt Resampling) (Interval, error) {
	whole := opt.shuffled(n)
	halves := [2][]int{slices.Sorted(slices.Values(whole[:n/2])), slices.Sorted(slices.Values(whole[n/2:]))}
	chosen := whole[:min(n, influential)]
	var value float64
	var influences []float64
	var half [2]float64
	var g errgroup.Group // each takes seconds of one core
	g.Go(func() (err error) {
		value, influences, err = s.influences(chosen)
		return err
	})
	for k, h := range halves {
		g.Go(func() (err error) {
			half[k], err = s.distance(h)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Interval{}, err
	}
	iv := Interval{Value: value, Samples: n, Method: ByInfluence, Bias: -value, Influences: influences}
	for _, v := range half {
		iv.Bias += v / 2
	}
	var squares float64
	for _, v := range influences {
		squares += v * v
	}
	deviation := math.Sqrt(squares / float64(len(chosen)) / float64(n))
	z := normalQuantile((1 + opt.Level) / 2)
	iv.Low, iv.High = iv.Value-z*deviation, iv.Value+z*deviation
	return iv, nil
}

// influential is on how many samples, at most, the spread of influences is measured: enough for 5 % of itself.
const influential = 512

// influences returns the distance of all samples and, for each of the chosen ones, what it adds to it. Around the
// samples' own moments µ, Σ the distance changes by the mean over added samples x of
//
//	2(µ-µref)·(x-µ) + (x-µ)ᵀ(I-T)(x-µ) - tr Σ(I-T)
//
// where T = R(RᵀΣR)^-½Rᵀ, RRᵀ = Σref, carries one Gaussian to the other.
func (s *measuredSet) influences(chosen []int) (distance float64, influences []float64, err error) {
	dims := s.ruler.reference.dims
	n := len(s.x) / dims
	whole := make([]int, n)
	for i := range whole {
		whole[i] = i
	}
	mean, meanTerm, trace := s.firstMoments(whole)
	roots, carried, err := s.carried(whole, chosen)
	if err != nil {
		return 0, nil, err
	}
	influences = make([]float64, len(chosen))
	for a, i := range chosen {
		influences[a] = roots - trace - carried[a]
		for j, v := range s.x[i*dims : (i+1)*dims] {
			d := v - mean[j]
			influences[a] += 2*mean[j]*d + d*d
		}
	}
	distance, err = frechetFromParts(meanTerm, trace, s.ruler.trace, roots)
	return distance, influences, err
}

// carried returns tr sqrt(Σ Σref) and, for each of the chosen samples, (x-µ)ᵀT(x-µ): with z = Rᵀ(x-µ) and M the
// covariance of z it is zᵀM^-½z, or, where samples are fewer than dimensions and G is their Gram matrix, the sample's
// diagonal element of (n-1)√G.
func (s *measuredSet) carried(whole, chosen []int) (roots float64, carried []float64, err error) {
	n, r := s.z.Dims()
	var product *mat.Dense
	var starts mat.Dense
	f := func(x float64) float64 { return 1 / math.Sqrt(x) }
	if s.gram != nil {
		product = centredGram(s.gram, whole)
		f = func(x float64) float64 { return float64(n-1) * math.Sqrt(x) }
		starts.ReuseAs(n, len(chosen))
		for a, i := range chosen {
			starts.Set(i, a, 1)
		}
	} else {
		rows := centredRows(s.z, whole)
		product = new(mat.Dense)
		product.Mul(rows.T(), rows)
		starts.ReuseAs(r, len(chosen))
		for a, i := range chosen {
			starts.SetCol(a, rows.RawRowView(i))
		}
	}
	product.Scale(1/float64(n-1), product)
	eigen, err := symmetricEigenvalues(product)
	if err != nil {
		return 0, nil, err
	}
	carried, err = quadraticForms(product, &starts, f)
	return sumOfRoots(eigen, min(n-1, r)), carried, err
}

// lanczosSteps bring the quadratic forms of real covariances to a percent, which the spread of influences can be off.
const lanczosSteps = 40

// quadraticForms returns wᵀf(A)w for each column w of starts, A symmetric and positive, by Gauss quadrature on the
// Lanczos process (Golub and Meurant 1994): the eigenvectors of A, which take minutes at 2,048 dimensions, are not
// needed.
func quadraticForms(a, starts *mat.Dense, f func(float64) float64) ([]float64, error) {
	size, count := starts.Dims()
	steps := min(lanczosSteps, size)
	var before, product mat.Dense
	now := mat.DenseCopyOf(starts)
	squares := columnDots(now, now)
	divideColumns(now, squares)
	alpha, beta := make([][]float64, 0, steps), make([][]float64, 0, steps)
	for k := range steps {
		product.Reset()
		product.Mul(a, now)
		alpha = append(alpha, columnDots(&product, now))
		for i := range size {
			to, v := product.RawRowView(i), now.RawRowView(i)
			for j, c := range alpha[k] {
				to[j] -= c * v[j]
			}
			if k > 0 {
				old := before.RawRowView(i)
				for j, c := range beta[k-1] {
					to[j] -= math.Sqrt(c) * old[j]
				}
			}
		}
		beta = append(beta, columnDots(&product, &product))
		before.CloneFrom(now)
		now.Copy(&product)
		divideColumns(now, beta[k])
	}
	out := make([]float64, count)
	for j := range count {
		// A start that spans few dimensions ends early; what follows is rounding.
		m := 1
		for m < steps && beta[m-1][j] > 1e-24*(alpha[0][j]*alpha[0][j]+beta[0][j]) {
			m++
		}
		t := mat.NewSymDense(m, nil)
		for k := range m {
			t.SetSym(k, k, alpha[k][j])
			if k+1 < m {
				t.SetSym(k, k+1, math.Sqrt(beta[k][j]))
			}
		}
		var eig mat.EigenSym
		if !eig.Factorize(t, true) {
			return nil, errors.New("the influence of a sample did not converge")
		}
		values := eig.Values(nil)
		var vectors mat.Dense
		eig.VectorsTo(&vectors)
		for k, v := range values {
			if v > 1e-13*values[m-1] {
				out[j] += squares[j] * vectors.At(0, k) * vectors.At(0, k) * f(v)
			}
		}
	}
	return out, nil
}

// columnDots are the products of the columns of a and b.
func columnDots(a, b *mat.Dense) []float64 {
	rows, columns := a.Dims()
	out := make([]float64, columns)
	for i := range rows {
		x, y := a.RawRowView(i), b.RawRowView(i)
		for j, v := range x {
			out[j] += v * y[j]
		}
	}
	return out
}

// divideColumns divides columns by the roots of squares; zero columns stay.
func divideColumns(a *mat.Dense, squares []float64) {
	rows, _ := a.Dims()
	for i := range rows {
		for j, s := range squares {
			if s > 0 {
				a.RawRowView(i)[j] /= math.Sqrt(s)
			}
		}
	}
}

// normalQuantile is the standard normal distribution's.
func normalQuantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
