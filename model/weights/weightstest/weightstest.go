// Package weightstest reads weights for tests.
package weightstest

import (
	"testing"

	"fewstep/model/weights"
)

// Floats are a tensor's values. The test ends where there is none of the name, or it is no list of numbers.
func Floats(t testing.TB, from weights.Source, name string) []float32 {
	t.Helper()
	tensor, err := from.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tensor.Float32()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
