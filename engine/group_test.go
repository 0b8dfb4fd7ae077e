package engine_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// virtual opens a backend of several CPU devices.
func virtual(t *testing.T, n int) *xla.Runtime {
	t.Helper()
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: n})
	if err != nil {
		xlatest.Missing(t, err)
	}
	t.Cleanup(rt.Close)
	return rt
}

func groupOf(t *testing.T, rt *xla.Runtime, mode string, n int, reduce dtypes.DType) *engine.Group {
	t.Helper()
	e := newEngine(mode, dtypes.Float32)
	alone := engine.New(rt.Backend, e.Compute, e.Granularity)
	alone.Split = e.Split
	return must[*engine.Group](t)(engine.NewGroup(alone, n, reduce, nil))
}

// dealing are the ways in which a group trains.
type dealing struct {
	mode   string
	clip   float64
	of     int
	reduce dtypes.DType
	shard  bool
	job    *engine.Job
	apart  bool // gradients are added up by programs of their own
	bucket int64
}

// dealOut takes two steps of several micro-batches of 12 samples, dealt out over n devices: what every device then holds of
// parameters and state, and the losses and norms that the first was told.
func dealOut(t *testing.T, rt *xla.Runtime, d dealing, compute dtypes.DType, n int) (states []engine.Tensors, told []float64) {
	t.Helper()
	const samples = 12
	number := func(k, i int) float32 { return float32(math.Sin(float64(31*k + 7*i + 1))) }
	lead := newEngine(d.mode, compute)
	lead = engine.New(rt.Backend, compute, lead.Granularity)
	lead.Split, lead.Shard = d.mode == "split", d.shard
	g := must[*engine.Group](t)(engine.NewGroup(lead, n, d.reduce, d.job))
	g.Overlap, g.Bucket = !d.apart, d.bucket
	first, total := 0, n
	switch {
	case d.job == nil:
	case d.job.Span != nil:
		first, total = d.job.Span.First, len(d.job.Span.IDs)
	default:
		first, total = n*d.job.Hosts.Rank(), n*d.job.Hosts.Nodes()
	}
	states = make([]engine.Tensors, n)
	settings := engine.Adam{Beta1: 0.9, Beta2: 0.99, Eps: 1e-3, EMA: 0.9, WeightDecay: 0.1, ClipNorm: d.clip}
	optimizers := make([]*engine.Optimizer, n)
	err := g.Together(func(rank int) error {
		e := g.Engines()[rank]
		o, err := e.NewOptimizer(settings, perceptronParams(t, e))
		if err != nil {
			return err
		}
		optimizers[rank] = o
		for step := range 2 {
			for micro := range d.of {
				part := samples / total
				var x, y []float32
				for k := (first + rank) * part; k < (first+rank+1)*part; k++ {
					at := (step*d.of+micro)*samples + k
					x, y = append(x, number(at, 0), number(at, 1)), append(y, number(at, 2), number(at, 3))
				}
				in := []*engine.Array{upload(t, e, x, part, 2), upload(t, e, y, part, 2)}
				r, err := e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1, Micro: micro, Of: d.of}, in...)
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
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for rank, o := range optimizers {
		e := g.Engines()[rank]
		states[rank] = engine.Tensors{}
		apart := d.shard && total > n // what other processes keep is not to be had
		if !apart {
			states[rank] = saved(t, e, o)
		}
		for _, name := range o.Params().Trained() {
			if !apart {
				states[rank][name] = must[[]float32](t)(e.Master(o, name))
			}
			states[rank]["computed with "+name] = must[[]float32](t)(e.Floats(o.Params().Get(name)))
		}
	}
	return states, told
}

// near compares tensors and what was told.
func near(t *testing.T, got, want engine.Tensors, told, wantTold []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) || len(want) < 8 {
		t.Errorf("%d tensors, want %d", len(got), len(want))
	}
	for name, v := range want {
		for i := range v {
			if d := math.Abs(float64(got[name][i] - v[i])); !(d <= tolerance) {
				t.Errorf("%s is %v, on one device %v", name, got[name], v)
				break
			}
		}
	}
	for i := range wantTold {
		if !(math.Abs(told[i]-wantTold[i]) <= 10*tolerance*(1+math.Abs(wantTold[i]))) {
			t.Errorf("losses and norms %v, on one device %v", told, wantTold)
			break
		}
	}
}

// Two steps on one device and dealt out to several: the same losses, norms, parameters, moments and average up to rounding,
// and the same bits on every device, also where every tensor's state lies on one of them.
func TestGroupTrainsAsOneDevice(t *testing.T) {
	rt := virtual(t, 4)
	for _, mode := range modes {
		for _, d := range []dealing{{mode, 0, 1, dtypes.Float32, false, nil, false, 0}, {mode, 0, 3, dtypes.Float32, false, nil, false, 0}, {mode, 0.01, 1, dtypes.Float32, false, nil, false, 0},
			{mode, 0.5, 2, dtypes.Float32, false, nil, false, 0}, {mode, 0, 1, dtypes.BFloat16, false, nil, false, 0},
			{mode, 0, 1, dtypes.Float32, true, nil, false, 0}, {mode, 0, 3, dtypes.Float32, true, nil, false, 0}, {mode, 0.01, 1, dtypes.Float32, true, nil, false, 0}, {mode, 0.5, 2, dtypes.Float32, true, nil, false, 0}} {
			if d.shard && mode != "tape" {
				continue // refused
			}
			t.Run(fmt.Sprintf("%+v", d), func(t *testing.T) {
				tolerance := 2e-6
				if d.reduce == dtypes.BFloat16 {
					tolerance = 2e-2
				}
				want, wantTold := dealOut(t, rt, d, dtypes.Float32, 1)
				for _, n := range []int{2, 4} {
					got, told := dealOut(t, rt, d, dtypes.Float32, n)
					for rank := 1; rank < n; rank++ {
						sameBits(t, got[rank], got[0])
					}
					near(t, got[0], want[0], told, wantTold, tolerance)
					again, _ := dealOut(t, rt, d, dtypes.Float32, n)
					sameBits(t, again[0], got[0])
				}
			})
		}
	}
}

// Gradients that are added up beside the next block's backward pass are those that are added up apart from it, to the bit; the
// programs for that are compiled before the walk.
func TestOverlapChangesNoBit(t *testing.T) {
	rt := virtual(t, 4)
	for _, d := range []dealing{{"tape", 0, 1, dtypes.Float32, false, nil, false, 0}, {"tape", 0, 1, dtypes.BFloat16, false, nil, false, 0}, {"tape", 0, 1, dtypes.Float32, true, nil, false, 0},
		{"tape", 0, 3, dtypes.Float32, false, nil, false, 0}} {
		for _, compute := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
			for _, n := range []int{2, 4} {
				d.apart = true
				want, wantTold := dealOut(t, rt, d, compute, n)
				d.apart = false
				for _, d.bucket = range []int64{0, 200, 1 << 40} {
					got, told := dealOut(t, rt, d, compute, n)
					for rank := range want {
						sameBits(t, got[rank], want[rank])
					}
					if !slices.Equal(told, wantTold) {
						t.Errorf("%+v: losses and norms %v, apart %v", d, told, wantTold)
					}
				}
			}
		}
	}
	for _, how := range []struct {
		overlap bool
		bucket  int64
	}{{true, 0}, {true, 200}, {true, 1 << 40}, {false, 0}} {
		g := groupOf(t, rt, "tape", 2, dtypes.Float32)
		g.Overlap, g.Bucket = how.overlap, how.bucket
		lead := g.Engines()[0]
		step := func(e *engine.Engine) error {
			params := perceptronParams(t, e)
			o, err := e.NewOptimizer(engine.Adam{Beta2: 0.99}, params)
			if err == nil {
				_, err = e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1}, batch(t, e, 0.5)...)
			}
			return err
		}
		if err := lead.Ahead(t.Context(), step); err != nil {
			t.Fatal(err)
		}
		programs := lead.Compiled().Programs
		before := lead.Runs()
		if err := g.Together(func(rank int) error { return step(g.Engines()[rank]) }); err != nil {
			t.Fatal(err)
		}
		if now := lead.Compiled().Programs; now != programs || programs == 0 {
			t.Errorf("%+v: %d programs were compiled ahead, and %d more were needed", how, programs, now-programs)
		}
		t.Logf("%+v: %d programs, run %d times", how, programs, lead.Runs()-before)
	}
}

// In bf16 the devices compute with copies of the owners' masters: the same bits as where every device keeps its own.
func TestShardedInBF16(t *testing.T) {
	rt := virtual(t, 2)
	for _, d := range []dealing{{"tape", 0, 1, dtypes.Float32, false, nil, false, 0}, {"tape", 0.5, 3, dtypes.Float32, false, nil, false, 0}} {
		want, wantTold := dealOut(t, rt, d, dtypes.BFloat16, 2)
		d.shard = true
		got, told := dealOut(t, rt, d, dtypes.BFloat16, 2)
		sameBits(t, got[1], got[0])
		narrower := 0
		for name, v := range want[0] {
			if strings.HasPrefix(name, "computed with ") && !slices.Equal(v, got[0][name]) {
				narrower++
				delete(want[0], name)
				delete(got[0], name)
			}
		}
		if narrower != 2 {
			t.Errorf("%d tensors are computed with in bf16; two are matrices", narrower)
		}
		tolerance := 0.0
		if d.of > 1 {
			tolerance = 1e-6 // micro-batches and devices are added up in another order
		}
		near(t, got[0], want[0], told, wantTold, tolerance)
	}
}

// What a device keeps of the state is its share.
func TestShardedMemory(t *testing.T) {
	rt := virtual(t, 4)
	live := func(n int, shard bool) (most, sum int64) {
		lead := engine.New(rt.Backend, dtypes.BFloat16, nn.Layer)
		lead.Shard = shard
		g := must[*engine.Group](t)(engine.NewGroup(lead, n, dtypes.Float32, nil))
		specs := []nn.Spec{}
		for i := range 16 {
			specs = append(specs, nn.Spec{Name: fmt.Sprintf("w%d", i), Dims: []int{32, 32}})
		}
		zeros := func(s nn.Spec) ([]float32, error) { return make([]float32, s.Size()), nil }
		err := g.Together(func(rank int) error {
			e := g.Engines()[rank]
			p, err := e.LoadFunc(specs, zeros, func(string) bool { return true })
			if err == nil {
				_, err = e.NewOptimizer(engine.Adam{Beta2: 0.99, EMA: 0.9}, p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range g.Engines() {
			most, sum = max(most, e.Memory().Live), sum+e.Memory().Live
		}
		return most, sum
	}
	const elements = 16 * 32 * 32
	if most, _ := live(4, false); most != elements*(4+4+4) {
		t.Errorf("replicated: %d bytes, want %d", most, elements*12)
	}
	if most, sum := live(4, true); most != elements*(2+12/4) || sum != 4*most {
		t.Errorf("dealt out: %d bytes of %d, want %d", most, sum, elements*5)
	}
	if most, _ := live(1, true); most != elements*12 {
		t.Errorf("dealt out to one device: %d bytes, want %d", most, elements*12)
	}
	lead := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	lead.Shard = true
	g := must[*engine.Group](t)(engine.NewGroup(lead, 2, dtypes.Float32, nil))
	if _, err := lead.NewOptimizer(engine.Adam{}, perceptronParams(t, g.Engines()[0])); err == nil || !strings.Contains(err.Error(), "granularity") {
		t.Errorf("at granularity network: %v", err)
	}
}

// The devices of a group compile every program once, together.
func TestGroupCompilesOnce(t *testing.T) {
	rt := virtual(t, 4)
	count := map[int]int{}
	for _, n := range []int{1, 2, 4} {
		g := groupOf(t, rt, "tape", n, dtypes.Float32)
		var told atomic.Int64
		g.Engines()[0].OnCompiled(func() { told.Add(1) })
		err := g.Together(func(rank int) error {
			e := g.Engines()[rank]
			o, err := e.NewOptimizer(engine.Adam{Beta2: 0.99}, perceptronParams(t, e))
			if err == nil {
				_, err = e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1}, batch(t, e, 0.5)...)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if count[n] = g.Engines()[0].Compiled().Programs; int(told.Load()) != count[n] {
			t.Errorf("%d devices: %d of %d programs are told", n, told.Load(), count[n])
		}
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
			err := g.Together(func(rank int) error {
				e := g.Engines()[rank]
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
					if norm2 := must[float64](t)(r.Norm2()); r.Updated && norm2-norm2 == 0 {
						t.Errorf("%s, device %d: norm² is %g", mode, rank, norm2)
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
	err := g.Together(func(rank int) error {
		e := g.Engines()[rank]
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
	if _, err := engine.NewGroup(engine.New(rt.Backend, dtypes.Float32, 0), 3, dtypes.Float32, nil); err == nil || !strings.Contains(err.Error(), "2") {
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

// A program of all processes' devices, by the ids of those and a number of its launch, is on one process's the same.
func TestSpanOfOneProcess(t *testing.T) {
	rt := virtual(t, 2)
	span := must[*xla.Span](t)(rt.Span())
	if len(span.IDs) != 2 || span.First != 0 {
		t.Fatalf("the span is %+v", span)
	}
	d := dealing{"tape", 0.5, 2, dtypes.Float32, true, nil, false, 0}
	want, wantTold := dealOut(t, rt, d, dtypes.Float32, 2)
	d.job = &engine.Job{Span: span}
	got, told := dealOut(t, rt, d, dtypes.Float32, 2)
	for rank := range want {
		sameBits(t, got[rank], want[rank])
	}
	if !slices.Equal(told, wantTold) {
		t.Errorf("%v and %v", told, wantTold)
	}
	if _, err := engine.NewGroup(engine.New(rt.Backend, dtypes.Float32, nn.Layer), 1, dtypes.Float32, d.job); err == nil || !strings.Contains(err.Error(), "2") {
		t.Errorf("one of a process's two devices: %v", err)
	}
}
