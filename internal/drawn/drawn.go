// Package drawn gives tests their random networks: values follow from a parameter's name and shape, here and in the
// Python scripts that write golden files (model/golden/generate.py), so that no weights are stored.
package drawn

import (
	"hash/fnv"
	"math"
	"strings"
)

// Uniform gives count numbers in [−1, 1): splitmix64 from the FNV-1a hash of the name, 24 bits each (generate.py).
func Uniform(name string, count int) []float64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	state := h.Sum64()
	out := make([]float64, count)
	for i := range out {
		state += 0x9E3779B97F4A7C15
		z := state
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		out[i] = float64(z>>40)/(1<<23) - 1
	}
	return out
}

// Inception is a parameter of an Inception network whose activations keep their scale over its depth
// (generate_features.py).
func Inception(name string, dims []int) []float32 {
	size, fan := 1, 1
	for i, d := range dims {
		size *= d
		if i > 0 {
			fan *= d
		}
	}
	out := make([]float32, size)
	for i, v := range Uniform(name, size) {
		switch {
		case strings.HasSuffix(name, "running_var"):
			v = 1 + 0.5*v
		case strings.HasSuffix(name, "bn.weight"):
			v = 1 + 0.3*v
		case len(dims) > 1:
			v *= math.Sqrt(6 / float64(fan))
		default:
			v *= 0.2
		}
		out[i] = float32(v)
	}
	return out
}
