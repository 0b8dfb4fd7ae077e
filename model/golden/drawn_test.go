package golden

import (
	"math"
	"strings"

	"fewstep/internal/drawn"
)

// weight is the value of a parameter in the golden models, drawn from its name and shape.
func weight(name string, dims []int) []float32 {
	size, fan := 1, 1
	for i, d := range dims {
		size *= d
		if i > 0 {
			fan *= d
		}
	}
	u := drawn.Uniform(name, size)
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
