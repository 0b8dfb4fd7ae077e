package stats

import "gonum.org/v1/gonum/mat"

// frechetRuler is a reference prepared for many distances.
type frechetRuler struct {
	reference *Moments
	root      *mat.Dense // [dims, r], RRᵀ = Σ
	trace     float64
}

func newFrechetRuler(reference *Moments) (*frechetRuler, error) {
	c := reference.Covariance()
	root, err := covarianceRoot(c, reference.maxRank())
	if err != nil {
		return nil, err
	}
	return &frechetRuler{reference: reference, root: root, trace: mat.Trace(c)}, nil
}

// measuredSet holds what the distances of many subsets of one set share.
// With Z = X·R, tr sqrt(Σ Σref) of a subset is the sum of the singular values
// of its centred rows of Z over sqrt(m-1).
type measuredSet struct {
	ruler *frechetRuler
	x     []float64  // [n, dims], less the reference's mean
	z     *mat.Dense // [n, r]
	gram  *mat.Dense // [n, n] = ZZᵀ, only where n-1 <= r
}

func (f *frechetRuler) measure(features [][]float64) *measuredSet {
	n, dims := len(features), f.reference.dims
	x := make([]float64, 0, n*dims)
	for _, row := range features {
		for j, v := range row {
			x = append(x, v-f.reference.mean[j])
		}
	}
	s := &measuredSet{ruler: f, x: x, z: new(mat.Dense)}
	s.z.Mul(mat.NewDense(n, dims, x), f.root)
	if _, r := s.z.Dims(); n <= r {
		s.gram = new(mat.Dense)
		s.gram.Mul(s.z, s.z.T())
	}
	return s
}

// distance is the Fréchet distance of the chosen samples from the reference.
func (s *measuredSet) distance(chosen []int) (float64, error) {
	m := len(chosen)
	_, meanTerm, trace := s.firstMoments(chosen)
	var product *mat.Dense
	_, r := s.z.Dims()
	if s.gram != nil {
		product = centredGram(s.gram, chosen)
	} else {
		product = centredScatter(s.z, chosen)
	}
	product.Scale(1/float64(m-1), product)
	eigen, err := symmetricEigenvalues(product)
	if err != nil {
		return 0, err
	}
	return frechetFromParts(meanTerm, trace, s.ruler.trace, sumOfRoots(eigen, min(m-1, r)))
}

// firstMoments are the chosen samples' mean less the reference's, its square, and the trace of their covariance.
func (s *measuredSet) firstMoments(chosen []int) (mean []float64, meanTerm, trace float64) {
	m, dims := len(chosen), s.ruler.reference.dims
	mean = make([]float64, dims)
	for _, i := range chosen {
		for j, v := range s.x[i*dims : (i+1)*dims] {
			mean[j] += v
		}
	}
	for j := range mean {
		mean[j] /= float64(m)
		meanTerm += mean[j] * mean[j]
	}
	for _, i := range chosen {
		for j, v := range s.x[i*dims : (i+1)*dims] {
			trace += (v - mean[j]) * (v - mean[j])
		}
	}
	return mean, meanTerm, trace / float64(m-1)
}

// centredGram is the Gram matrix of the chosen rows about their own mean.
func centredGram(gram *mat.Dense, chosen []int) *mat.Dense {
	m := len(chosen)
	out := mat.NewDense(m, m, nil)
	rowMean := make([]float64, m)
	var all float64
	for a, i := range chosen {
		for b, j := range chosen {
			v := gram.At(i, j)
			out.Set(a, b, v)
			rowMean[a] += v / float64(m)
		}
		all += rowMean[a] / float64(m)
	}
	for a := range m {
		for b := range m {
			out.Set(a, b, out.At(a, b)-rowMean[a]-rowMean[b]+all)
		}
	}
	return out
}

// centredScatter is the scatter matrix of the chosen rows about their mean.
func centredScatter(z *mat.Dense, chosen []int) *mat.Dense {
	rows := centredRows(z, chosen)
	var out mat.Dense
	out.Mul(rows.T(), rows)
	return &out
}

// centredRows are the chosen rows less their mean.
func centredRows(z *mat.Dense, chosen []int) *mat.Dense {
	_, r := z.Dims()
	rows := mat.NewDense(len(chosen), r, nil)
	mean := make([]float64, r)
	for a, i := range chosen {
		rows.SetRow(a, z.RawRowView(i))
		for j, v := range z.RawRowView(i) {
			mean[j] += v / float64(len(chosen))
		}
	}
	for a := range chosen {
		row := rows.RawRowView(a)
		for j := range row {
			row[j] -= mean[j]
		}
	}
	return rows
}
