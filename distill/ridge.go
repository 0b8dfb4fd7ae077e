package distill

import (
	"errors"
	"fmt"

	"gonum.org/v1/gonum/mat"
)

// Regression collects the normal equations of a linear regression of targets
// on features and a constant: Gram is the upper triangle, by rows, of Zᵀ·Z for
// rows Z = [features, 1, targets].
type Regression struct {
	Features, Targets int
	Gram              []float64 // [n, n] with n = Features + 1 + Targets
	Rows              int64
}

// NewRegression starts without rows.
func NewRegression(features, targets int) *Regression {
	n := features + 1 + targets
	return &Regression{Features: features, Targets: targets, Gram: make([]float64, n*n)}
}

// Width is the width of a row Z.
func (r *Regression) Width() int { return r.Features + 1 + r.Targets }

// Add adds Zᵀ·Z of more rows, given as the sum of two f32 matrices: the product
// in f64, rounded, and what the rounding left over.
func (r *Regression) Add(rounded, rest []float32, rows int64) error {
	if len(rounded) != len(r.Gram) || len(rest) != len(r.Gram) {
		return fmt.Errorf("normal equations of %d and %d numbers, want %d", len(rounded), len(rest), len(r.Gram))
	}
	for i := range r.Gram {
		r.Gram[i] += float64(rounded[i]) + float64(rest[i])
	}
	r.Rows += rows
	return nil
}

// ridge is the penalty on squared weights, as a share of the features' mean
// square. It is there to keep the equations solvable where features depend on
// each other, not against overfitting: each sample has a row for every position.
const ridge = 1e-8

// Solve returns the weights [Features][Targets] and the constants [Targets] of
// least squares with a small ridge penalty on the weights.
func (r *Regression) Solve() (weights [][]float64, constants []float64, err error) {
	f, n := r.Features, r.Width()
	if r.Rows < int64(f) {
		return nil, nil, fmt.Errorf("a regression on %d features needs at least as many rows, and has %d", f, r.Rows)
	}
	a := mat.NewSymDense(f+1, nil)
	trace := 0.0
	for i := range f + 1 {
		for j := i; j <= f; j++ {
			a.SetSym(i, j, r.Gram[i*n+j])
		}
		if i < f {
			trace += r.Gram[i*n+i]
		}
	}
	for i := range f {
		a.SetSym(i, i, a.At(i, i)+ridge*trace/float64(f))
	}
	b := mat.NewDense(f+1, r.Targets, nil)
	for i := range f + 1 {
		for k := range r.Targets {
			b.Set(i, k, r.Gram[i*n+f+1+k])
		}
	}
	var cholesky mat.Cholesky
	if !cholesky.Factorize(a) {
		return nil, nil, errors.New("the normal equations are not positive definite: a feature is not finite, or all are constant")
	}
	var x mat.Dense
	if err := cholesky.SolveTo(&x, b); err != nil {
		return nil, nil, fmt.Errorf("solving the normal equations: %w", err)
	}
	for i := range f {
		weights = append(weights, mat.Row(nil, i, &x))
	}
	return weights, mat.Row(nil, f, &x), nil
}

// Loss is the mean squared error of weights and constants over rows and
// targets.
func (r *Regression) Loss(weights [][]float64, constants []float64) float64 {
	f, n := r.Features, r.Width()
	sum := 0.0
	v := make([]float64, n) // residual = Z·v
	for k := range r.Targets {
		clear(v)
		for i := range f {
			v[i] = weights[i][k]
		}
		v[f], v[f+1+k] = constants[k], -1
		for i := range n {
			if v[i] == 0 {
				continue
			}
			sum += v[i] * v[i] * r.Gram[i*n+i]
			for j := i + 1; j < n; j++ {
				sum += 2 * v[i] * v[j] * r.Gram[i*n+j]
			}
		}
	}
	return sum / float64(r.Rows) / float64(r.Targets)
}
