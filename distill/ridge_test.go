package distill

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Weights and constants are recovered from rows that they made, and the loss is that of the rows.
func TestRegression(t *testing.T) {
	const features, targets, rows = 5, 2, 40
	rng := rand.New(rand.NewPCG(1, 2))
	r := NewRegression(features, targets)
	var w [features + 1][targets]float64
	for i := range w {
		for k := range w[i] {
			w[i][k] = rng.NormFloat64()
		}
	}
	for range rows {
		z := make([]float64, r.Width())
		for i := range features {
			z[i] = rng.NormFloat64() + 2
		}
		z[features] = 1
		for k := range targets {
			for i := range features + 1 {
				z[features+1+k] += w[i][k] * z[i]
			}
		}
		z[features+1] += 0.01 // of the first target's rows: the constant takes it up
		rounded, rest := make([]float32, len(r.Gram)), make([]float32, len(r.Gram))
		for i := range z {
			for j := range z {
				p := z[i] * z[j]
				rounded[i*len(z)+j] = float32(p)
				rest[i*len(z)+j] = float32(p - float64(float32(p)))
			}
		}
		if err := r.Add(rounded, rest, 1); err != nil {
			t.Fatal(err)
		}
	}
	got, constants, err := r.Solve()
	if err != nil {
		t.Fatal(err)
	}
	w[features][0] += 0.01
	for i := range features + 1 {
		for k := range targets {
			x := constants[k]
			if i < features {
				x = got[i][k]
			}
			if math.Abs(x-w[i][k]) > 1e-5 {
				t.Errorf("weight %d of target %d is %g, want %g", i, k, x, w[i][k])
			}
		}
	}
	if loss := r.Loss(got, constants); math.Abs(loss) > 1e-9 {
		t.Errorf("loss %g", loss)
	}
	constants[1] += 0.5
	if loss := r.Loss(got, constants); math.Abs(loss-0.125) > 1e-6 {
		t.Errorf("loss %g with a constant moved by 0.5, want 0.125 more", loss)
	}
	if _, _, err := NewRegression(3, 1).Solve(); err == nil {
		t.Error("a regression without rows has a solution")
	}
	if err := r.Add(nil, nil, 1); err == nil {
		t.Error("equations of another size are taken")
	}
}
