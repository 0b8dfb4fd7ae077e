package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// These tests run on the best backend that there is: on a machine with a GPU they are about its memory.

const (
	deep = 12 // layers, more than there are in the window
	wide = 160
)

// tower is the regression of y by deep layers of x, [4, wide]; the first layer is visited twice.
func tower() engine.Function {
	loss := nn.Block{Kind: "mean_square", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.ReduceAllMean(graph.Square(graph.Sub(graph.ConvertDType(in[0], dtypes.Float32), in[1])))}
	}}
	return engine.Function{Key: "tower", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		h := nn.One(r, linear("net.l0", wide), in[0])
		for i := range deep {
			h = nn.One(r, linear(fmt.Sprintf("net.l%d", i), wide), h)
		}
		return r.Run(loss, h, in[1])
	}}
}

func noise(seed, n int, scale float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(scale * math.Sin(float64(7919*seed+i*i%9973)))
	}
	return v
}

func towerParams(t *testing.T, e *engine.Engine) *engine.Params {
	t.Helper()
	var specs []nn.Spec
	values := engine.Tensors{}
	for i := range deep {
		for _, s := range []nn.Spec{{Name: fmt.Sprintf("l%d.fc.weight", i), Dims: []int{wide, wide}}, {Name: fmt.Sprintf("l%d.fc.bias", i), Dims: []int{wide}}} {
			specs, values[s.Name] = append(specs, s), noise(len(specs)+1, s.Size(), 0.1)
		}
	}
	return must[*engine.Params](t)(e.Load(specs, values, func(string) bool { return true }))
}

// offloading is an engine on a tape with state in the host's memory, or a skipped test where the backend has none.
func offloading(t *testing.T, elements int) *engine.Engine {
	t.Helper()
	e := newEngine("tape", dtypes.Float32)
	e.Offload = elements
	if err := e.CheckOffload(); errors.Is(err, xla.ErrNoHostMemory) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	return e
}

// climb takes steps of a tower's training and returns everything that they change and all outputs.
func climb(t *testing.T, e *engine.Engine, o *engine.Optimizer, first, steps, micro int) engine.Tensors {
	t.Helper()
	out := engine.Tensors{}
	for i := first; i < first+steps; i++ {
		for k := range micro {
			x, y := upload(t, e, noise(100*i+k, 4*wide, 1), 4, wide), upload(t, e, noise(100*i+k+50, 4*wide, 1), 4, wide)
			r := must[*engine.Result](t)(e.Train(tower(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.01, Micro: k, Of: micro}, x, y))
			out[fmt.Sprintf("loss %d.%d", i, k)] = append(must[[]float32](t)(e.Floats(r.Outputs[0])), float32(must[float64](t)(r.Norm2())))
			engine.Free(append(r.Outputs, x, y)...)
		}
	}
	maps.Copy(out, snapshot(t, e, o))
	return out
}

// State in the host's memory changes no bit of losses, norms, weights, moments and averages, however updates are made,
// through a save and a restore; and is not in the device's memory.
func TestOffloadChangesNoBit(t *testing.T) {
	plain := newEngine("tape", dtypes.Float32)
	host := offloading(t, engine.OffloadFrom)
	for _, c := range []struct {
		beta1, ema, clip float64
		moments          dtypes.DType
		micro            int
	}{
		{0.9, 0.99, 0, dtypes.Float32, 1}, {0, 0, 0, dtypes.Float32, 1}, {0.9, 0.99, 0, dtypes.BFloat16, 1}, {0.9, 0.99, 0.1, dtypes.BFloat16, 2}, {0, 0.9, 0.1, dtypes.Float32, 1},
	} {
		t.Run(fmt.Sprintf("%g-%g-%g-%s-%d", c.beta1, c.ema, c.clip, c.moments, c.micro), func(t *testing.T) {
			adam := engine.Adam{Beta1: c.beta1, Beta2: 0.99, EMA: c.ema, ClipNorm: c.clip, WeightDecay: 0.1, Moments: c.moments, Seed: 3}
			start := func(e *engine.Engine) *engine.Optimizer {
				return must[*engine.Optimizer](t)(e.NewOptimizer(adam, towerParams(t, e)))
			}
			before := host.Memory()
			a, b := start(plain), start(host)
			state := int64(0)
			for name, v := range saved(t, plain, a) {
				if len(v) >= engine.OffloadFrom {
					state += int64(len(v) * b.Saved(name).Size())
				}
			}
			if got := host.Memory().Host - before.Host; got != state || got == 0 {
				t.Errorf("%d bytes in the host's memory, want %d", got, state)
			}
			sameBits(t, climb(t, host, b, 0, 3, c.micro), climb(t, plain, a, 0, 3, c.micro))
			if got := host.Memory().Host - before.Host; got != state {
				t.Errorf("%d bytes in the host's memory after updates, want %d", got, state)
			}
			values := saved(t, host, b)
			again := start(host)
			if err := host.RestoreOptimizer(again, values.Value, b.Steps); err != nil {
				t.Fatal(err)
			}
			sameBits(t, saved(t, host, again), values)
			b.Free()
			again.Free()
			b = must[*engine.Optimizer](t)(host.NewOptimizer(adam, b.Params()))
			if err := host.RestoreOptimizer(b, values.Value, a.Steps); err != nil {
				t.Fatal(err)
			}
			sameBits(t, climb(t, host, b, 3, 2, c.micro), climb(t, plain, a, 3, 2, c.micro))
			b.Free()
			if got := host.Memory().Host; got != before.Host {
				t.Errorf("%d bytes in the host's memory at last, %d before", got, before.Host)
			}
		})
	}
}

// The same for a forward pass that is recorded first and continued after something else was trained, as adversarial steps
// have it.
func TestOffloadOfRecordedPass(t *testing.T) {
	loss := nn.Block{Kind: "mean_square", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.ReduceAllMean(graph.Square(graph.Sub(in[0], in[1])))}
	}}
	layers := func(r nn.Runner, x nn.Value, first, last int) nn.Value {
		for i := first; i < last; i++ {
			x = nn.One(r, linear(fmt.Sprintf("net.l%d", i), wide), x)
		}
		return x
	}
	lower := engine.Function{Key: "lower", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return []nn.Value{layers(r, in[0], 0, deep/2)} }}
	upper := engine.Function{Key: "upper", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(loss, layers(r, in[0], deep/2, deep), in[1])
	}}
	run := func(e *engine.Engine) engine.Tensors {
		adam := engine.Adam{Beta1: 0.9, Beta2: 0.99, Moments: dtypes.BFloat16, Seed: 9}
		o := must[*engine.Optimizer](t)(e.NewOptimizer(adam, towerParams(t, e)))
		other := must[*engine.Optimizer](t)(e.NewOptimizer(adam, towerParams(t, e)))
		bind := engine.Bind{"net": o.Params()}
		for i := range 3 {
			x, y := upload(t, e, noise(10*i, 4*wide, 1), 4, wide), upload(t, e, noise(10*i+1, 4*wide, 1), 4, wide)
			pass := must[*engine.Pass](t)(e.Record(lower, bind, "net", o, x))
			climb(t, e, other, i, 1, 1)
			r := must[*engine.Result](t)(e.Continue(pass, upper, 0.01, y))
			engine.Free(r.Outputs...)
			pass.Free()
		}
		out := snapshot(t, e, o)
		for name, v := range snapshot(t, e, other) {
			out["other."+name] = v
		}
		return out
	}
	sameBits(t, run(offloading(t, engine.OffloadFrom)), run(newEngine("tape", dtypes.Float32)))
}

// A gradient that is not finite changes no state in the host's memory either.
func TestOffloadKeepsStateFromNaN(t *testing.T) {
	e := offloading(t, 1)
	o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9}, towerParams(t, e)))
	climb(t, e, o, 0, 1, 1)
	before := snapshot(t, e, o)
	x, y := noise(1, 4*wide, 1), noise(2, 4*wide, 1)
	x[5] = float32(math.NaN())
	r := must[*engine.Result](t)(e.Train(tower(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.01}, upload(t, e, x, 4, wide), upload(t, e, y, 4, wide)))
	if n := must[float64](t)(r.Norm2()); !math.IsNaN(n) {
		t.Errorf("norm² %g", n)
	}
	sameBits(t, snapshot(t, e, o), before)
}

// What is planned is what is taken, in both memories; the window is far smaller than the state, and gradients that are
// added up take no more.
func TestOffloadIsPlanned(t *testing.T) {
	e := offloading(t, engine.OffloadFrom)
	dry := engine.Dry(runtime.Backend, dtypes.Float32, nn.Layer)
	dry.Offload = e.Offload
	adam := engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9}
	const block = 4 * wide * wide
	for micro, lists := range map[int]int64{1: 3, 2: 4} { // with two micro-batches there are gradients, too
		measure := func(e *engine.Engine) engine.Memory {
			o := must[*engine.Optimizer](t)(e.NewOptimizer(adam, towerParams(t, e)))
			defer o.Free()
			start := e.Memory()
			e.ResetPeak()
			climb(t, e, o, 0, 2, micro)
			m := e.Memory()
			m.Peak -= start.Live
			m.Held -= start.Live
			return m
		}
		got, want := measure(e), measure(dry)
		if got.Held != want.Held || got.Host != want.Host || got.HostPeak != want.HostPeak || got.Host != 3*deep*block {
			t.Errorf("%d micro-batches: taken %+v, planned %+v", micro, got, want)
		}
		if most := 4*lists*block + 6*block; got.Held > most { // a window's state, gradients and an update's outputs
			t.Errorf("%d micro-batches: an update adds %d bytes, want at most %d: the state is %d", micro, got.Held, most, got.Host)
		}
		if got.HostPeak < lists*deep*block || got.HostPeak > lists*(deep+5)*block {
			t.Errorf("%d micro-batches: %d bytes in the host's memory at once, of blocks of %d", micro, got.HostPeak, block)
		}
	}
}

func TestOffloadRefused(t *testing.T) {
	e := newEngine("fused", dtypes.Float32)
	e.Offload = 1
	if _, err := e.NewOptimizer(engine.Adam{Beta2: 0.9}, perceptronParams(t, e)); err == nil || !strings.Contains(err.Error(), "choose granularity stage or layer") {
		t.Errorf("error %v", err)
	}
	rt := must[*xla.Runtime](t)(xla.Open(xla.Go, xla.Options{}))
	pure := engine.New(rt.Backend, dtypes.Float32, nn.Layer)
	pure.Offload = 1
	if _, err := pure.NewOptimizer(engine.Adam{Beta2: 0.9}, perceptronParams(t, pure)); !errors.Is(err, xla.ErrNoHostMemory) {
		t.Errorf("error %v", err)
	}
}

// The same on two devices, whether every one keeps all state or each has its part, and whether gradients are added up beside
// the walk back or apart from it.
func TestOffloadInAGroup(t *testing.T) {
	rt := virtual(t, 2)
	const micro = 2
	for _, c := range []struct {
		clip  float64
		of    int
		shard bool
	}{{0, 1, false}, {0, 1, true}, {0.1, micro, false}, {0, micro, true}} {
		trained := func(elements int, overlap bool) engine.Tensors {
			lead := engine.New(rt.Backend, dtypes.Float32, nn.Layer)
			lead.Offload, lead.Shard = elements, c.shard
			if err := lead.CheckOffload(); errors.Is(err, xla.ErrNoHostMemory) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			g := must[*engine.Group](t)(engine.NewGroup(lead, 2, dtypes.Float32, nil))
			g.Overlap = overlap
			optimizers := make([]*engine.Optimizer, 2)
			told := make([][]float32, 2)
			err := g.Together(func(rank int) error {
				e := g.Engines()[rank]
				o, err := e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9, ClipNorm: c.clip}, towerParams(t, e))
				if err != nil {
					return err
				}
				optimizers[rank] = o
				for i := range 3 * c.of {
					x, y := upload(t, e, noise(100*i+rank, 4*wide, 1), 4, wide), upload(t, e, noise(100*i+rank+50, 4*wide, 1), 4, wide)
					r, err := e.Train(tower(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.01, Micro: i % c.of, Of: c.of}, x, y)
					if err != nil {
						return err
					}
					told[rank] = append(told[rank], must[[]float32](t)(e.Floats(r.Outputs[0]))[0], float32(must[float64](t)(r.Norm2())))
					engine.Free(append(r.Outputs, x, y)...)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			out := engine.Tensors{}
			for rank, e := range g.Engines() {
				for name, v := range snapshot(t, e, optimizers[rank]) {
					out[fmt.Sprint(rank, name)] = v
				}
				out[fmt.Sprint("told ", rank)] = told[rank]
				if held := e.Memory().Host; (held > 0) != (elements > 0) {
					t.Errorf("%+v: device %d has %d bytes in the host's memory", c, rank, held)
				}
			}
			return out
		}
		want := trained(0, false)
		for _, overlap := range []bool{true, false} {
			sameBits(t, trained(engine.OffloadFrom, overlap), want)
		}
		sameBits(t, trained(0, true), want)
	}
}
