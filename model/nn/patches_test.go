package nn_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// A convolution and its gradients are the same on the pure-Go backend, as products over patches, and on XLA.
func TestConvolvePureGo(t *testing.T) {
	pure, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		xlatest.Missing(t, err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func(dims ...int) []float32 {
		n := 1
		for _, d := range dims {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	for _, c := range []struct{ high, wide, in, out, kernel, stride, pad int }{
		{5, 7, 3, 4, 3, 1, 1}, {8, 8, 3, 2, 3, 2, 1}, {9, 8, 2, 3, 3, 2, 0}, {8, 6, 3, 4, 4, 2, 1}, {4, 4, 2, 5, 4, 1, 0}, {7, 7, 2, 2, 5, 3, 2},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			x, w := draw(2, c.high, c.wide, c.in), draw(c.out, c.in, c.kernel, c.kernel)
			body := func(x, w *graph.Node) []*graph.Node {
				x, w = graph.Reshape(x, 2, c.high, c.wide, c.in), graph.Reshape(w, c.out, c.in, c.kernel, c.kernel)
				y := nn.Convolve(x, w, c.stride, c.pad)
				loss := graph.ReduceAllSum(graph.Mul(y, graph.Sin(y))) // not linear, so that the gradients depend on both
				return append([]*graph.Node{y}, graph.Gradient(loss, x, w)...)
			}
			run := func(rt *xla.Runtime) (out [][]float32) {
				for _, v := range graph.MustExecOnceN(rt.Backend, body, x, w) {
					out = append(out, flat(v.Value()))
				}
				return out
			}
			want, got := run(other), run(pure)
			for i, what := range []string{"result", "gradient by the input", "gradient by the kernel"} {
				if len(want[i]) != len(got[i]) {
					t.Fatalf("%s: %d numbers, want %d", what, len(got[i]), len(want[i]))
				}
				for k := range want[i] {
					if d := want[i][k] - got[i][k]; d > 1e-3 || d < -1e-3 {
						t.Fatalf("%s, element %d: %g, want %g", what, k, got[i][k], want[i][k])
					}
				}
			}
		})
	}
}

func flat(v any) (out []float32) {
	switch v := v.(type) {
	case [][][][]float32:
		for _, a := range v {
			for _, b := range a {
				for _, c := range b {
					out = append(out, c...)
				}
			}
		}
	}
	return out
}
