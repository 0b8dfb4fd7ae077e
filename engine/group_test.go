package engine_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"

	"github.com/gomlx/compute/dtypes"
)

// virtual opens a backend of several CPU devices.
func virtual(t *testing.T, n int) *xla.Runtime {
	t.Helper()
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: n})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(rt.Close)
	return rt
}

func groupOf(t *testing.T, rt *xla.Runtime, mode string, n int, reduce dtypes.DType) *engine.Group {
	t.Helper()
	e := newEngine(mode, dtypes.Float32)
	alone := engine.New(rt.Backend, e.Compute, e.Granularity)
	alone.Split = e.Split
	return must[*engine.Group](t)(engine.NewGroup(alone, n, reduce))
}

// Two steps of several micro-batches of 12 samples, on one device and dealt out to several: the same losses, norms,
// parameters, moments and average up to rounding, and the same bits on every device.
func TestGroupTrainsAsOneDevice(t *testing.T) {
	rt := virtual(t, 4)
	const samples = 12
	number := func(k, i int) float32 { return float32(math.Sin(float64(31*k + 7*i + 1))) }
	for _, mode := range modes {
		for _, c := range []struct {
			clip   float64
			of     int
			reduce dtypes.DType
			near   float64
		}{{0, 1, dtypes.Float32, 2e-6}, {0, 3, dtypes.Float32, 2e-6}, {0.01, 1, dtypes.Float32, 2e-6}, {0.5, 2, dtypes.Float32, 2e-6}, {0, 1, dtypes.BFloat16, 2e-2}} {
			t.Run(fmt.Sprintf("%s-%g-%d-%s", mode, c.clip, c.of, c.reduce), func(t *testing.T) {
				settings := engine.Adam{Beta1: 0.9, Beta2: 0.99, Eps: 1e-3, EMA: 0.9, WeightDecay: 0.1, ClipNorm: c.clip}
				run := func(n int) (states []engine.Tensors, told []float64) {
					g := groupOf(t, rt, mode, n, c.reduce)
					states = make([]engine.Tensors, n)
					err := g.Together(func(rank int, e *engine.Engine) error {
						o, err := e.NewOptimizer(settings, perceptronParams(t, e))
						if err != nil {
							return err
						}
						for step := range 2 {
							for micro := range c.of {
								part := samples / n
								var x, y []float32
								for k := rank * part; k < (rank+1)*part; k++ {
									at := (step*c.of+micro)*samples + k
									x, y = append(x, number(at, 0), number(at, 1)), append(y, number(at, 2), number(at, 3))
								}
								in := []*engine.Array{upload(t, e, x, part, 2), upload(t, e, y, part, 2)}
								r, err := e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1, Micro: micro, Of: c.of}, in...)
								if err != nil {
									return err
								}
								if rank == 0 {
									told = append(told, float64(must[[]float32](t)(e.Floats(r.Outputs[0]))[0]), must[float64](t)(r.Norm2()))
								}
							}
						}
						if o.Steps != 2 {
							t.Errorf("device %d counted %d updates", rank, o.Steps)
						}
						states[rank] = snapshot(t, e, o)
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
					return states, told
				}
				want, wantTold := run(1)
				for _, n := range []int{2, 4} {
					got, told := run(n)
					for rank := 1; rank < n; rank++ {
						sameBits(t, got[rank], got[0])
					}
					for name, v := range want[0] {
						for i := range v {
							if d := math.Abs(float64(got[0][name][i] - v[i])); d > c.near {
								t.Errorf("%d devices: %s is %v, on one device %v", n, name, got[0][name], v)
								break
							}
						}
					}
					for i := range wantTold {
						if math.Abs(told[i]-wantTold[i]) > 10*c.near*(1+math.Abs(wantTold[i])) {
							t.Errorf("%d devices: losses and norms %v, on one device %v", n, told, wantTold)
							break
						}
					}
					again, _ := run(n)
					sameBits(t, again[0], got[0])
				}
			})
		}
	}
}

// The devices of a group compile every program once, together.
func TestGroupCompilesOnce(t *testing.T) {
	rt := virtual(t, 4)
	count := map[int]int{}
	for _, n := range []int{1, 2, 4} {
		g := groupOf(t, rt, "tape", n, dtypes.Float32)
		err := g.Together(func(_ int, e *engine.Engine) error {
			o, err := e.NewOptimizer(engine.Adam{Beta2: 0.99}, perceptronParams(t, e))
			if err == nil {
				_, err = e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1}, batch(t, e, 0.5)...)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		count[n] = g.Engines()[0].Compiled().Programs
	}
	if count[2] != count[4] || count[2]-count[1] > 4 { // two blocks' gradients, the squared norm, the loss
		t.Errorf("programs by number of devices: %v", count)
	}
}

// A NaN in one device's part changes nothing on any device, and is told by all.
func TestNonFiniteOnOneDevice(t *testing.T) {
	rt := virtual(t, 2)
	for _, mode := range modes {
		for _, of := range []int{1, 2} {
			g := groupOf(t, rt, mode, 2, dtypes.Float32)
			err := g.Together(func(rank int, e *engine.Engine) error {
				o, err := e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9}, perceptronParams(t, e))
				if err != nil {
					return err
				}
				before := snapshot(t, e, o)
				for micro := range of {
					first := float32(0.5)
					if rank == 1 && micro == 0 {
						first = float32(math.NaN())
					}
					r, err := e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1, Micro: micro, Of: of}, batch(t, e, first)...)
					if err != nil {
						return err
					}
					if n := must[float64](t)(r.Norm2()); r.Updated && n-n == 0 {
						t.Errorf("%s, device %d: norm² is %g", mode, rank, n)
					}
					if loss := must[[]float32](t)(e.Floats(r.Outputs[0]))[0]; micro == 0 && loss == loss {
						t.Errorf("%s, device %d: the loss is %g", mode, rank, loss)
					}
				}
				sameBits(t, snapshot(t, e, o), before)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A device that fails, or asks for something else, ends the others' waiting with its name.
func TestFailureEndsTheGroup(t *testing.T) {
	rt := virtual(t, 2)
	broken := errors.New("no data")
	g := groupOf(t, rt, "tape", 2, dtypes.Float32)
	step := func(e *engine.Engine, f engine.Function) error {
		o, err := e.NewOptimizer(engine.Adam{Beta2: 0.99}, perceptronParams(t, e))
		if err != nil {
			return err
		}
		_, err = e.Train(f, engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1}, batch(t, e, 0.5)...)
		return err
	}
	err := g.Together(func(rank int, e *engine.Engine) error {
		if rank == 1 {
			return broken
		}
		err := step(e, perceptron())
		if !errors.Is(err, engine.ErrGroup) || !strings.Contains(err.Error(), "device 1") {
			t.Errorf("the other device was told %v", err)
		}
		return err
	})
	if !errors.Is(err, broken) || errors.Is(err, engine.ErrGroup) {
		t.Errorf("the group failed by %v", err)
	}
	if _, err := engine.NewGroup(engine.New(rt.Backend, dtypes.Float32, 0), 3, dtypes.Float32); err == nil || !strings.Contains(err.Error(), "2") {
		t.Errorf("three devices of two: %v", err)
	}
}

// The engines of a group are on devices of their own.
func TestGroupEnginesAreApart(t *testing.T) {
	rt := virtual(t, 2)
	g := groupOf(t, rt, "fused", 2, dtypes.Float32)
	a := upload(t, g.Engines()[1], []float32{1, 2}, 2)
	if m := []int64{g.Engines()[0].Memory().Live, g.Engines()[1].Memory().Live}; !slices.Equal(m, []int64{0, 8}) {
		t.Errorf("bytes on the devices: %v", m)
	}
	a.Free()
}
