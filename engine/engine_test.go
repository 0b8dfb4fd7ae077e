package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

var runtime *xla.Runtime

func TestMain(m *testing.M) {
	xlatest.QuickCompile()
	rt, err := openRuntime()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	runtime = rt
	os.Exit(m.Run())
}

// modes are the ways in which a training step runs.
var modes = []string{"fused", "split", "tape"}

var engines = map[string]*engine.Engine{}

// sharedEngine is one engine per mode and dtype: programs that several tests need are compiled once.
func sharedEngine(mode string, compute dtypes.DType) *engine.Engine {
	key := mode + compute.String()
	if engines[key] == nil {
		engines[key] = newEngine(mode, compute)
	}
	return engines[key]
}

func newEngine(mode string, compute dtypes.DType) *engine.Engine {
	level := nn.Network
	if mode == "tape" {
		level = nn.Layer
	}
	e := engine.New(runtime.Backend, compute, level)
	e.Split = mode == "split"
	return e
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func linear(name string, out int) nn.Block {
	return nn.Block{Kind: fmt.Sprintf("linear(%d)", out), Name: name, Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{nn.SiLU(s.Linear("fc", in[0], out, true))}
	}}
}

// perceptron is the regression of y by two layers of x, [3, 2].
func perceptron() engine.Function {
	loss := nn.Block{Kind: "mean_square", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.ReduceAllMean(graph.Square(graph.Sub(graph.ConvertDType(in[0], dtypes.Float32), in[1])))}
	}}
	return engine.Function{Key: "perceptron", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		h := nn.One(r, linear("net.one", 3), in[0])
		return r.Run(loss, nn.One(r, linear("net.two", 2), h), in[1])
	}}
}

// perceptronParams are reproducible numbers, all trained.
func perceptronParams(t *testing.T, e *engine.Engine) *engine.Params {
	t.Helper()
	specs := []nn.Spec{{Name: "one.fc.weight", Dims: []int{3, 2}}, {Name: "one.fc.bias", Dims: []int{3}},
		{Name: "two.fc.weight", Dims: []int{2, 3}}, {Name: "two.fc.bias", Dims: []int{2}}}
	values := engine.Tensors{}
	for i, s := range specs {
		v := make([]float32, s.Size())
		for k := range v {
			v[k] = float32(math.Sin(float64(10*i + k + 1)))
		}
		values[s.Name] = v
	}
	return must[*engine.Params](t)(e.Load(specs, values, func(string) bool { return true }))
}

func upload(t *testing.T, e *engine.Engine, v []float32, dims ...int) *engine.Array {
	t.Helper()
	return must[*engine.Array](t)(e.Upload(v, dims...))
}

func batch(t *testing.T, e *engine.Engine, first float32) []*engine.Array {
	t.Helper()
	return []*engine.Array{upload(t, e, []float32{first, -1, 0.3, 2, 1, 0.7}, 3, 2), upload(t, e, []float32{1, 0, 0, 1, -1, 2}, 3, 2)}
}

// snapshot is everything that an optimizer step may change.
func snapshot(t *testing.T, e *engine.Engine, o *engine.Optimizer) engine.Tensors {
	t.Helper()
	out := must[engine.Tensors](t)(e.Download(o.Params(), nil))
	maps.Copy(out, saved(t, e, o))
	return out
}

// saved is an optimizer's state.
func saved(t *testing.T, e *engine.Engine, o *engine.Optimizer) engine.Tensors {
	t.Helper()
	specs, value := e.SaveOptimizer(o)
	out := engine.Tensors{}
	for _, s := range specs {
		out[s.Name] = must[[]float32](t)(value(s))
	}
	return out
}

func sameBits(t *testing.T, got, want engine.Tensors) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d tensors, want %d", len(got), len(want))
	}
	for name, v := range want {
		if !slices.EqualFunc(got[name], v, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
			t.Errorf("%s is %v, want %v", name, got[name], v)
		}
	}
}

func train(t *testing.T, e *engine.Engine, o *engine.Optimizer, step engine.Step, in []*engine.Array) *engine.Result {
	t.Helper()
	return must[*engine.Result](t)(e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, step, in...))
}

// watchWaits sees to it that the host reads nothing from the device in a training step: whether the gradient is finite is
// decided on the device, while all programs are queued. What it returns checks the last step.
func watchWaits(e *engine.Engine) (check func(t *testing.T, what string)) {
	var seen []int64
	e.Watch = func(string, time.Time, time.Duration) { seen = append(seen, e.Waits()) }
	return func(t *testing.T, what string) {
		t.Helper()
		e.Watch = nil
		if len(seen) == 0 {
			t.Fatalf("%s: no program was run", what)
		}
		first := seen[0]
		for i, n := range append(seen, e.Waits()) {
			if n != first {
				t.Errorf("%s: the host waited for the device behind %d of %d programs", what, i, len(seen))
				break
			}
		}
	}
}

// A NaN in one micro-batch leaves parameters, moments, average and step count as they were, and no path waits for the
// device to find it.
func TestNonFiniteGradientChangesNothing(t *testing.T) {
	nan := float32(math.NaN())
	for _, mode := range modes {
		for _, c := range []struct {
			clip    float64
			of      int
			moments dtypes.DType
		}{{0, 1, dtypes.Float32}, {0, 2, dtypes.Float32}, {1, 1, dtypes.Float32}, {0, 1, dtypes.BFloat16}, {0.5, 2, dtypes.BFloat16}} {
			t.Run(fmt.Sprintf("%s-%g-%d-%s", mode, c.clip, c.of, c.moments), func(t *testing.T) {
				e := sharedEngine(mode, dtypes.Float32)
				settings := engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9, WeightDecay: 0.1, ClipNorm: c.clip, Moments: c.moments, Seed: 5}
				o := must[*engine.Optimizer](t)(e.NewOptimizer(settings, perceptronParams(t, e)))
				for k := range c.of {
					train(t, e, o, engine.Step{LR: 0.1, Micro: k, Of: c.of}, batch(t, e, 0.5))
				}
				before := snapshot(t, e, o)
				waits := watchWaits(e)
				var r *engine.Result
				for k := range c.of {
					in := batch(t, e, 0.5)
					if k == 0 {
						in = batch(t, e, nan)
					}
					r = train(t, e, o, engine.Step{LR: 0.1, Micro: k, Of: c.of}, in)
				}
				waits(t, "a step with a NaN")
				if n := must[float64](t)(r.Norm2()); n-n == 0 {
					t.Errorf("norm² is %g, which tells nothing of the NaN", n)
				}
				sameBits(t, snapshot(t, e, o), before)
				if o.Steps != 1 {
					t.Errorf("%d steps counted, want 1", o.Steps)
				}
				waits = watchWaits(e)
				for k := range c.of { // and training goes on
					train(t, e, o, engine.Step{LR: 0.1, Micro: k, Of: c.of}, batch(t, e, 0.5))
				}
				if o.Steps != 2 {
					t.Errorf("%d steps counted, want 2", o.Steps)
				}
				waits(t, "a step")
			})
		}
	}
}

// The gradient of one tensor is infinite where the loss is not: the other tensor must not move either.
func TestPartlyInfiniteGradient(t *testing.T) {
	f := engine.Function{Key: "root", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(nn.Block{Kind: "root", Name: "net", Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			a, b := s.Param("a", nn.Ones, 2), s.Param("b", nn.Ones, 2)
			return []*graph.Node{graph.ReduceAllSum(graph.Add(graph.Mul(a, in[0]), graph.Sqrt(b)))}
		}}, in...)
	}}
	for _, mode := range modes {
		e := sharedEngine(mode, dtypes.Float32)
		specs := []nn.Spec{{Name: "a", Dims: []int{2}}, {Name: "b", Dims: []int{2}}}
		p := must[*engine.Params](t)(e.Load(specs, engine.Tensors{"a": {1, 2}, "b": {0, 4}}, func(string) bool { return true }))
		o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99}, p))
		before := snapshot(t, e, o)
		r := must[*engine.Result](t)(e.Train(f, engine.Bind{"net": p}, "net", o, engine.Step{LR: 0.1}, upload(t, e, []float32{1, 1}, 2)))
		if n := must[float64](t)(r.Norm2()); n-n == 0 {
			t.Errorf("%s: norm² is %g", mode, n)
		}
		sameBits(t, snapshot(t, e, o), before)
	}
}

// Two steps, a save, a restore into a new optimizer and two more steps are four steps, to the bit.
func TestRestoredOptimizerContinues(t *testing.T) {
	for i, mode := range append(modes, modes...) {
		settings := engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9, WeightDecay: 0.1}
		if i >= len(modes) {
			settings.Moments, settings.Seed = dtypes.BFloat16, 11
		}
		t.Run(fmt.Sprintf("%s-%s", mode, settings.Moments), func(t *testing.T) {
			e := sharedEngine(mode, dtypes.Float32)
			o := must[*engine.Optimizer](t)(e.NewOptimizer(settings, perceptronParams(t, e)))
			steps := func(o *engine.Optimizer) {
				for range 2 {
					train(t, e, o, engine.Step{LR: 0.1}, batch(t, e, 0.5))
				}
			}
			steps(o)
			params := must[engine.Tensors](t)(e.Download(o.Params(), nil))
			state := saved(t, e, o)
			done := o.Steps
			steps(o)
			p := must[*engine.Params](t)(e.Load(o.Params().Specs, params, func(string) bool { return true }))
			again := must[*engine.Optimizer](t)(e.NewOptimizer(settings, p))
			if err := e.RestoreOptimizer(again, state.Value, done); err != nil {
				t.Fatal(err)
			}
			steps(again)
			sameBits(t, snapshot(t, e, again), snapshot(t, e, o))
			delete(state, "v.two.fc.bias")
			if err := e.RestoreOptimizer(again, state.Value, done); err == nil || !strings.Contains(err.Error(), "v.two.fc.bias") {
				t.Errorf("a missing moment gave error %v", err)
			}
		})
	}
}

// Three steps of torch 2.15.0's
//
//	AdamW([p], lr=0.1, betas=(b1, 0.99), eps=1e-8, weight_decay=wd)
//
// on ((p - [1, 2, -1])**2).sum() from p = [0.5, -1, 2].
func TestAdamEqualsPyTorch(t *testing.T) {
	f := engine.Function{Key: "bowl", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(nn.Block{Kind: "bowl", Name: "net", Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.ReduceAllSum(graph.Square(graph.Sub(s.Param("p", nn.Ones, 3), in[0])))}
		}}, in...)
	}}
	for _, c := range []struct {
		decay, beta1 float64
		want         [][]float32
	}{
		{0.1, 0.9, [][]float32{{0.5950000286102295, -0.8899999856948853, 1.8799999952316284}, {0.688005805015564, -0.7812063097953796, 1.7613179683685303}, {0.7779317498207092, -0.6736818552017212, 1.6440246105194092}}},
		{0, 0, [][]float32{{0.6000000238418579, -0.8999999761581421, 1.899999976158142}, {0.6883940100669861, -0.8017006516456604, 1.8017005920410156}, {0.7643005847930908, -0.7051246762275696, 1.7051246166229248}}},
	} {
		for _, mode := range modes {
			e := sharedEngine(mode, dtypes.Float32)
			p := must[*engine.Params](t)(e.Load([]nn.Spec{{Name: "p", Dims: []int{3}}}, engine.Tensors{"p": {0.5, -1, 2}}, func(string) bool { return true }))
			o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: c.beta1, Beta2: 0.99, WeightDecay: c.decay}, p))
			for step, want := range c.want {
				must[*engine.Result](t)(e.Train(f, engine.Bind{"net": p}, "net", o, engine.Step{LR: 0.1}, upload(t, e, []float32{1, 2, -1}, 3)))
				got := must[engine.Tensors](t)(e.Download(p, nil))["p"]
				for i := range want {
					if math.Abs(float64(got[i]-want[i])) > 1e-6 {
						t.Errorf("%s, decay %g, step %d: %v, PyTorch %v", mode, c.decay, step+1, got, want)
						break
					}
				}
			}
		}
	}
}

// bf16 activations over f32 masters: nearly the f32 loss, and small steps are not lost in the masters.
func TestBFloat16Compute(t *testing.T) {
	for _, mode := range modes {
		var losses [2]float64
		for i, compute := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
			e := sharedEngine(mode, compute)
			o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta2: 0.99}, perceptronParams(t, e)))
			before := must[engine.Tensors](t)(e.Download(o.Params(), nil))
			r := train(t, e, o, engine.Step{LR: 1e-5}, batch(t, e, 0.5))
			losses[i] = float64(must[[]float32](t)(e.Floats(r.Outputs[0]))[0])
			after := must[engine.Tensors](t)(e.Download(o.Params(), nil))
			for name, v := range before {
				if slices.Equal(v, after[name]) {
					t.Errorf("%s, %s: a step of 1e-5 left %s unchanged", mode, compute, name)
				}
			}
		}
		if math.Abs(losses[1]-losses[0]) > 0.02*losses[0] || losses[0] == losses[1] {
			t.Errorf("%s: loss %g in bf16, %g in f32", mode, losses[1], losses[0])
		}
	}
}

func TestDonatedArrayIsGone(t *testing.T) {
	for _, mode := range modes {
		e := sharedEngine(mode, dtypes.Float32)
		p := perceptronParams(t, e)
		old := p.Get("one.fc.weight")
		o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta2: 0.99}, p))
		train(t, e, o, engine.Step{LR: 0.1}, batch(t, e, 0.5))
		if _, err := e.Floats(old); err == nil || !strings.Contains(err.Error(), "freed") {
			t.Errorf("%s: reading a donated array gave error %v", mode, err)
		}
		p.Set("one.fc.weight", old, true)
		if _, err := e.Train(perceptron(), engine.Bind{"net": p}, "net", o, engine.Step{LR: 0.1}, batch(t, e, 0.5)...); err == nil || !strings.Contains(err.Error(), "freed") {
			t.Errorf("%s: training with a donated array gave error %v", mode, err)
		}
	}
}

func TestPanicBecomesError(t *testing.T) {
	broken := errors.New("this body is broken")
	f := engine.Function{Key: "broken", Body: func(nn.Runner, []nn.Value) []nn.Value { panic(broken) }}
	vector := engine.Function{Key: "vector", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(linear("net.one", 3), in[0])
	}}
	for _, mode := range modes {
		e := newEngine(mode, dtypes.Float32)
		in := batch(t, e, 0.5)
		p := perceptronParams(t, e)
		o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta2: 0.99}, p))
		bind := engine.Bind{"net": p}
		if _, err := e.Call(f, bind, in...); !errors.Is(err, broken) {
			t.Errorf("%s: Call returned %v", mode, err)
		}
		if _, err := e.Train(f, bind, "net", o, engine.Step{LR: 1}, in...); !errors.Is(err, broken) {
			t.Errorf("%s: Train returned %v", mode, err)
		}
		if _, err := e.Train(vector, bind, "net", o, engine.Step{LR: 1}, in[:1]...); err == nil || !strings.Contains(err.Error(), "scalar") {
			t.Errorf("%s: a loss that is no scalar gave error %v", mode, err)
		}
		if _, err := e.Call(perceptron(), engine.Bind{}, in...); err == nil || !strings.Contains(err.Error(), "net") {
			t.Errorf("%s: a network without parameters gave error %v", mode, err)
		}
	}
}

// What goes its way ahead, on arrays without content, compiles what is run afterwards, and nothing else; it runs nothing.
func TestAhead(t *testing.T) {
	for _, mode := range []string{"network", "split", "tape"} {
		e := newEngine(mode, dtypes.Float32)
		predict := engine.Function{Key: "predict", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(linear("net.one", 3), in[0]) }}
		use := func(e *engine.Engine) error {
			p, in := perceptronParams(t, e), batch(t, e, 0.5)
			if _, err := e.Call(predict, engine.Bind{"net": p}, in[0]); err != nil {
				return err
			}
			o, err := e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99}, p)
			for i := 0; err == nil && i < 3; i++ {
				_, err = e.Train(perceptron(), engine.Bind{"net": p}, "net", o, engine.Step{LR: 0.1, Micro: max(i-1, 0), Of: 1 + min(i, 1)}, in...)
			}
			return err
		}
		if err := e.Ahead(t.Context(), use); err != nil {
			t.Fatal(err)
		}
		compiled, runs := e.Compiled().Programs, e.Runs()
		if compiled < 4 || runs != 0 {
			t.Errorf("%s: %d programs compiled ahead, %d run", mode, compiled, runs)
		}
		if err := use(e); err != nil {
			t.Fatal(err)
		}
		if n := e.Compiled().Programs; n != compiled {
			t.Errorf("%s: %d programs compiled ahead, %d when they were run", mode, compiled, n)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		other := newEngine(mode, dtypes.Float32)
		if err := other.Ahead(ctx, use); !errors.Is(err, context.Canceled) || other.Compiled().Programs > 0 {
			t.Errorf("%s: after the end of its context %d programs were compiled, %v", mode, other.Compiled().Programs, err)
		}
	}
}

// Frozen matrices kept in bf16 give what f32 ones of the same, rounded, values give; vectors stay f32; both kinds of
// parameters have their own programs.
func TestFrozenInBFloat16(t *testing.T) {
	predict := engine.Function{Key: "frozen", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(linear("net.one", 3), in[0]) }}
	for _, mode := range []string{"fused", "tape"} {
		e := newEngine(mode, dtypes.Float32)
		load := func(v float32) []float32 {
			t.Helper()
			values := engine.Tensors{"one.fc.weight": {v, 2, 3, 4, 5, 6}, "one.fc.bias": {v, 0, 0}}
			p := must[*engine.Params](t)(e.Load([]nn.Spec{{Name: "one.fc.weight", Dims: []int{3, 2}}, {Name: "one.fc.bias", Dims: []int{3}}}, values, nil))
			in := []*engine.Array{upload(t, e, []float32{1, -1}, 1, 2)}
			out := must[[]*engine.Array](t)(e.Call(predict, engine.Bind{"net": p}, in...))
			if got := must[[]float32](t)(e.Floats(p.Get("one.fc.bias")))[0]; got != v {
				t.Errorf("a frozen vector holds %g, not %g", got, v)
			}
			return must[[]float32](t)(e.Floats(out[0]))
		}
		const v, rounded = 1.001, 1.0 // bf16 has 8 bits
		full := load(v)
		e.Frozen = dtypes.BFloat16
		narrow := load(v)
		want := must[[]float32](t)(e.Floats(upload(t, e, []float32{full[0]}, 1)))[0]
		// x·σ(x) of 2v − 2 and of rounded + v − 2
		silu := func(x float64) float64 { return x / (1 + math.Exp(-x)) }
		if math.Abs(float64(want)-silu(2*v-2)) > 1e-6 || math.Abs(float64(narrow[0])-silu(rounded+v-2)) > 1e-6 {
			t.Errorf("%s: %v in f32, %v in bf16", mode, full, narrow)
		}
	}
}
