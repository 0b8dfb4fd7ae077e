package engine_test

import (
	"math"
	"slices"
	"testing"

	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// slope is a loss whose gradient by p [n] is its input, whatever p.
var slope = engine.Function{Key: "slope", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
	return r.Run(nn.Block{Kind: "slope", Name: "net", Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		p := s.Param("p", nn.Ones, in[0].Shape().Dim(0))
		return []*graph.Node{graph.ReduceAllSum(graph.Mul(p, in[0]))}
	}}, in...)
}}

func slopeOptimizer(t *testing.T, e *engine.Engine, n int, settings engine.Adam) *engine.Optimizer {
	t.Helper()
	p := must[*engine.Params](t)(e.Load([]nn.Spec{{Name: "p", Dims: []int{n}}}, engine.Tensors{"p": make([]float32, n)}, func(string) bool { return true }))
	return must[*engine.Optimizer](t)(e.NewOptimizer(settings, p))
}

func slide(t *testing.T, e *engine.Engine, o *engine.Optimizer, gradient []float32) {
	t.Helper()
	g := upload(t, e, gradient, len(gradient))
	defer g.Free()
	r := must[*engine.Result](t)(e.Train(slope, engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 1e-3}, g))
	engine.Free(r.Outputs...)
}

func mean(v []float32) float64 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x)
	}
	return sum / float64(len(v))
}

// Moments are rounded to one of the two neighbours, right on average, with other bits in every update, for both moments
// and for other seeds.
func TestStochasticRounding(t *testing.T) {
	const n, beta1, beta2, g = 1 << 16, 0.9, 0.99, 0.7311
	constant := slices.Repeat([]float32{-g}, n)
	for _, mode := range modes {
		e := sharedEngine(mode, dtypes.Float32)
		first := map[uint64]engine.Tensors{}
		for _, seed := range []uint64{1, 2} {
			o := slopeOptimizer(t, e, n, engine.Adam{Beta1: beta1, Beta2: beta2, Moments: dtypes.BFloat16, Seed: seed})
			slide(t, e, o, constant)
			first[seed] = saved(t, e, o)
			for name, want := range map[string]float64{"m.p": -(1 - beta1) * g, "v.p": (1 - beta2) * g * g} {
				v := first[seed][name]
				low := float64(math.Float32frombits(math.Float32bits(float32(want)) &^ 0xffff)) // smaller in magnitude
				high := float64(math.Float32frombits(math.Float32bits(float32(want))&^0xffff + 0x10000))
				up := 0
				for _, x := range v {
					if float64(x) != low && float64(x) != high {
						t.Fatalf("%s: %s holds %g, which is no neighbour of %g", mode, name, x, want)
					}
					if float64(x) == high {
						up++
					}
				}
				share := (want - low) / (high - low)
				deviation := math.Sqrt(share * (1 - share) / n)
				if got := float64(up) / n; math.Abs(got-share) > 5*deviation {
					t.Errorf("%s, seed %d: %s was rounded up %.4f of the time, want %.4f ± %.4f", mode, seed, name, got, share, deviation)
				}
			}
		}
		later := slopeOptimizer(t, e, n, engine.Adam{Beta1: beta1, Beta2: beta2, Moments: dtypes.BFloat16, Seed: 1})
		later.Steps = 1
		slide(t, e, later, constant)
		second := saved(t, e, later)
		for _, name := range []string{"m.p", "v.p"} {
			if slices.Equal(first[1][name], first[2][name]) {
				t.Errorf("%s: two seeds round %s alike", mode, name)
			}
			if slices.Equal(first[1][name], second[name]) {
				t.Errorf("%s: two updates round %s alike", mode, name)
			}
		}
		// Where m and v are rounded up are unrelated places.
		both, m, v := 0.0, 0.0, 0.0
		highM, lowV := slices.Min(first[1]["m.p"]), slices.Min(first[1]["v.p"])
		for i := range n {
			a, b := first[1]["m.p"][i] == highM, first[1]["v.p"][i] != lowV
			m, v = m+count(a), v+count(b)
			both += count(a && b)
		}
		if d := both/n - m/n*v/n; math.Abs(d) > 5*0.25/math.Sqrt(n) {
			t.Errorf("%s: both moments are rounded up together %.4f too often", mode, d)
		}
	}
}

func count(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// A thousand updates with β2 = 0.999: the second moment arrives where it does in f32, whose steps are far below bf16's
// spacing, and so do the weights.
func TestBFloat16MomentsFollow(t *testing.T) {
	const n, steps = 512, 1000
	e := sharedEngine("fused", dtypes.Float32)
	run := func(moments dtypes.DType) (weights, v []float32) {
		o := slopeOptimizer(t, e, n, engine.Adam{Beta1: 0.9, Beta2: 0.999, Moments: moments, Seed: 3})
		for step := range steps {
			g := make([]float32, n)
			for i := range g {
				g[i] = float32(0.2 + math.Sin(float64(1+i*i+7*step))) // noise around a slope
			}
			slide(t, e, o, g)
		}
		return must[engine.Tensors](t)(e.Download(o.Params(), nil))["p"], saved(t, e, o)["v.p"]
	}
	want, wantV := run(dtypes.Float32)
	got, gotV := run(dtypes.BFloat16)
	if a, b := mean(gotV), mean(wantV); math.Abs(a/b-1) > 0.01 {
		t.Errorf("the second moment is %g on average, in f32 %g", a, b)
	}
	var far, way float64
	for i := range want {
		far += math.Pow(float64(got[i]-want[i]), 2)
		way += math.Pow(float64(want[i]), 2)
	}
	if d := math.Sqrt(far / way); d > 0.02 {
		t.Errorf("the weights are %.3f of their way from where f32 moments lead", d)
	} else {
		t.Logf("weights: %.4f of their way apart; second moment: %.5f of f32's", d, mean(gotV)/mean(wantV))
	}
	if slices.Equal(got, want) {
		t.Error("bf16 moments gave the very weights of f32 ones")
	}
}

// An optimizer with bf16 moments takes half the memory for them.
func TestBFloat16MomentsTakeHalf(t *testing.T) {
	e := newEngine("fused", dtypes.Float32)
	size := func(moments dtypes.DType) int64 {
		before := e.Memory().Live
		p := perceptronParams(t, e)
		with := e.Memory().Live
		must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, Moments: moments}, p))
		if with-before <= 0 {
			t.Fatal("parameters take nothing")
		}
		return e.Memory().Live - with
	}
	const numbers = 4 * 4 // bytes that name four parameters in the random bits
	if f32, bf16 := size(dtypes.Float32), size(dtypes.BFloat16)-numbers; 2*bf16 != f32 || bf16 == 0 {
		t.Errorf("moments take %d bytes in bf16 and %d in f32", bf16, f32)
	}
}
