package extract

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
)

func newEngine(t testing.TB) *engine.Engine {
	t.Helper()
	rt, err := xla.Open(xla.Auto, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return engine.New(rt.Backend, dtypes.Float32, nn.Network)
}

func floats(t testing.TB, src weights.Source, name string) ([]float32, []int) {
	t.Helper()
	x, err := src.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := x.Float32()
	if err != nil {
		t.Fatal(err)
	}
	return v, x.Shape
}

// TestAsGoodAsSVD compares what each module misses with the optimum, which numpy's SVD gives: at most 1 % more, and at
// most f32's rounding where the optimum is nothing.
func TestAsGoodAsSVD(t *testing.T) {
	e := newEngine(t)
	golden, err := weights.Open("testdata/matrices.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	checked := 0
	for _, name := range golden.Names() {
		if strings.HasSuffix(name, ".missed") {
			continue
		}
		d, shape := floats(t, golden, name)
		missed, _ := floats(t, golden, name+".missed")
		for _, rank := range []int{1, 4, 16} {
			m, lost, err := module(e, name, shape, d, Options{Rank: rank, Oversample: 16, Iterations: 2})
			if err != nil {
				t.Fatal(err)
			}
			if want := min(rank, len(missed)-1); m.Rank != want {
				t.Errorf("%s: rank %d, want %d", name, m.Rank, want)
			}
			got, change, err := lora.Delta(m)
			if err != nil || !slices.Equal(got, shape) {
				t.Fatalf("%s: shape %v, %v", name, got, err)
			}
			rest := slices.Clone(d)
			for i := range rest {
				rest[i] -= change[i]
			}
			have, best := math.Sqrt(squares(rest)), float64(missed[m.Rank])
			rounding := 1e-5 * float64(missed[0])
			if have > 1.01*best+rounding {
				t.Errorf("%s, rank %d: misses %g, the optimum %g", name, rank, have, best)
			}
			if said := math.Sqrt(lost); math.Abs(said-have) > 0.01*have+1e-3*float64(missed[0]) {
				t.Errorf("%s, rank %d: says it misses %g, and misses %g", name, rank, said, have)
			}
			if a, b := squares(m.Up.Data), squares(m.Down.Data); a > 1.01*b || b > 1.01*a {
				t.Errorf("%s, rank %d: up and down have the squared norms %g and %g", name, rank, a, b)
			}
			checked++
		}
	}
	if checked != 18 {
		t.Errorf("%d cases", checked)
	}
}

// TestUNets extracts what was merged, and says what a LoRA cannot hold.
func TestUNets(t *testing.T) {
	e := newEngine(t)
	tensor := func(name string, shape []int, f func(i int) float32) weights.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = f(i)
		}
		return weights.FromFloat32(name, shape, v, weights.F32)
	}
	const linear, kernel = "mid_block.attentions.0.proj_in", "up_blocks.0.resnets.1.conv1"
	base := []weights.Tensor{
		tensor(linear+".weight", []int{6, 4}, func(i int) float32 { return float32(i % 5) }),
		tensor(kernel+".weight", []int{3, 2, 3, 3}, func(i int) float32 { return float32(i % 7) }),
		tensor("down_blocks.0.resnets.0.conv1.weight", []int{2, 2, 1, 1}, func(i int) float32 { return 1 }),
		tensor("conv_in.weight", []int{2, 1, 3, 3}, func(i int) float32 { return 1 }),
		tensor(kernel+".bias", []int{3}, func(i int) float32 { return 1 }),
	}
	tuned := slices.Clone(base)
	tuned[0] = tensor(linear+".weight", []int{6, 4}, func(i int) float32 { return float32(i%5) + float32(i/4+1)*float32(i%4-1) })
	tuned[1] = tensor(kernel+".weight", []int{3, 2, 3, 3}, func(i int) float32 { return float32(i%7) + float32(i/18-1) })
	tuned[3] = tensor("conv_in.weight", []int{2, 1, 3, 3}, func(i int) float32 { return 2 })
	tuned[4] = tensor(kernel+".bias", []int{3}, func(i int) float32 { return 3 })
	r, err := UNets(context.Background(), e, weights.Collect(base), weights.Collect(tuned), Options{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Modules) != 2 || r.Unchanged != 1 || !slices.Equal(r.LeftOut, []string{"conv_in.weight", kernel + ".bias"}) || r.Error > 1e-3 {
		t.Fatalf("%d modules, %d unchanged, left out %v, error %g", len(r.Modules), r.Unchanged, r.LeftOut, r.Error)
	}
	merged, err := lora.Merged(weights.Collect(base), r.Modules, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{linear + ".weight", kernel + ".weight"} {
		got, _ := floats(t, merged, name)
		want, _ := floats(t, weights.Collect(tuned), name)
		for i := range got {
			if math.Abs(float64(got[i]-want[i])) > 1e-4 {
				t.Fatalf("%s[%d]: %g, want %g", name, i, got[i], want[i])
			}
		}
	}

	for what, c := range map[string]struct {
		tuned []weights.Tensor
		want  string
	}{
		"same":    {base, "do not differ"},
		"missing": {base[1:], "tensor " + linear + ".weight is missing in the tuned one"},
		"shape":   {append([]weights.Tensor{tensor(linear+".weight", []int{4, 6}, func(int) float32 { return 0 })}, base[1:]...), linear + ".weight has the shape [6 4] in one and [4 6]"},
		"NaN":     {append([]weights.Tensor{tensor(linear+".weight", []int{6, 4}, func(int) float32 { return float32(math.NaN()) })}, base[1:]...), "not a finite number"},
	} {
		if _, err := UNets(context.Background(), e, weights.Collect(base), weights.Collect(c.tuned), Options{Rank: 2}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
