package golden

import (
	"hash/fnv"
	"math"
	"strings"
)

// uniform gives count numbers in [−1, 1): splitmix64 from the FNV-1a hash of the name, 24 bits each (generate.py).
func uniform(name string, count int) []float64 {
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

// weight is the value of a parameter in the golden models, drawn from its name and shape.
func weight(name string, dims []int) []float32 {
	size, fan := 1, 1
	for i, d := range dims {
		size *= d
		if i > 0 {
			fan *= d
		}
	}
	u := uniform(name, size)
	parts := strings.Split(name, ".")
	norm := strings.Contains(parts[max(0, len(parts)-2)], "norm")
	out := make([]float32, size)
	for i, v := range u {
		switch {
		case strings.HasSuffix(name, "bias"):
			v *= 0.2
		case norm:
			v = 1 + 0.3*v
		case len(dims) > 1:
			v *= math.Sqrt(3 / float64(fan))
		}
		out[i] = float32(v)
	}
	return out
}
