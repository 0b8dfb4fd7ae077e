package nn_test

import (
	"fmt"
	"math"
	"os"
	"testing"

	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

var runtime *xla.Runtime

func TestMain(m *testing.M) {
	xlatest.QuickCompile()
	rt, err := xla.Open(xla.Auto, xla.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	runtime = rt
	os.Exit(m.Run())
}

// layer is a block of one output, with the shapes of its inputs.
type layer struct {
	name   string
	inputs [][]int
	lora   *nn.LoRA
	build  func(s *nn.Scope, in []*graph.Node) *graph.Node
}

// Gradients by every input and every parameter against central differences.
func TestGradientsAgainstFiniteDifferences(t *testing.T) {
	image := []int{2, 4, 4, 4}
	conv := func(out, kernel, stride, pad int) func(*nn.Scope, []*graph.Node) *graph.Node {
		return func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.Conv("c", in[0], out, kernel, stride, pad) }
	}
	unary := func(f func(*graph.Node) *graph.Node) func(*nn.Scope, []*graph.Node) *graph.Node {
		return func(_ *nn.Scope, in []*graph.Node) *graph.Node { return f(in[0]) }
	}
	// One group: after the last convolution a pair of channels would normalise to ±1, without a gradient.
	head := (&discriminator.Config{Denoiser: &unet.Config{BlockOutChannels: []int{4}}, Channels: 4, Groups: 1}).Head("")
	critic := func(s *nn.Scope, in []*graph.Node) *graph.Node { return head.Build(s, in)[0] }
	lora := &nn.LoRA{Rank: 2, Scale: 0.5}
	layers := []layer{
		{"linear", [][]int{{3, 4}}, nil, func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.Linear("l", in[0], 5, true) }},
		{"linear lora", [][]int{{2, 3, 4}}, lora, func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.Linear("l", in[0], 5, false) }},
		{"conv 3x3", [][]int{image}, nil, conv(3, 3, 1, 1)},
		{"conv 3x3 lora", [][]int{{1, 4, 4, 3}}, lora, conv(3, 3, 1, 1)},
		{"conv 1x1", [][]int{image}, nil, conv(3, 1, 1, 0)},
		{"conv 3x3 stride 2", [][]int{image}, nil, conv(3, 3, 2, 1)},
		{"conv 4x4 stride 2", [][]int{{1, 6, 6, 3}}, nil, conv(2, 4, 2, 1)},
		{"conv 4x4 valid", [][]int{image}, nil, conv(2, 4, 1, 0)},
		{"conv 2x2 without bias", [][]int{{1, 5, 5, 2}}, nil, func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.ConvNoBias("c", in[0], 2, 2, 1, 0) }},
		{"VAE downsampler", [][]int{image}, nil, func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.ConvDownVAE("c", in[0], 3) }},
		{"group norm", [][]int{image}, nil, func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.GroupNorm("n", in[0], 2, 1e-5) }},
		{"layer norm", [][]int{{2, 3, 5}}, nil, func(s *nn.Scope, in []*graph.Node) *graph.Node { return s.LayerNorm("n", in[0], 1e-5) }},
		{"attention", [][]int{{2, 3, 4}, {2, 5, 4}, {2, 5, 4}}, nil, func(_ *nn.Scope, in []*graph.Node) *graph.Node { return nn.Attention(in[0], in[1], in[2], 2, nil) }},
		{"masked attention", [][]int{{1, 3, 4}, {1, 3, 4}, {1, 3, 4}}, nil, func(_ *nn.Scope, in []*graph.Node) *graph.Node {
			row := graph.Iota(in[0].Graph(), shapes.Make(dtypes.Float32, 3, 3), 0)
			column := graph.Iota(in[0].Graph(), shapes.Make(dtypes.Float32, 3, 3), 1)
			mask := graph.Where(graph.GreaterThan(column, row), graph.MulScalar(graph.OnesLike(row), -1e9), graph.ZerosLike(row))
			return nn.Attention(in[0], in[1], in[2], 2, mask)
		}},
		{"SiLU", [][]int{{9}}, nil, unary(nn.SiLU)},
		{"GELU", [][]int{{9}}, nil, unary(nn.GELU)},
		{"QuickGELU", [][]int{{9}}, nil, unary(nn.QuickGELU)},
		{"softplus", [][]int{{9}}, nil, unary(nn.Softplus)},
		{"upsample", [][]int{{2, 2, 3, 2}}, nil, unary(nn.Upsample2)},
		{"average pool", [][]int{image}, nil, unary(func(x *graph.Node) *graph.Node { return nn.AvgPool(x, 2) })},
		{"sinusoid", [][]int{{3}}, nil, unary(func(x *graph.Node) *graph.Node { return nn.Sinusoid(x, 6) })},
		{"scale", [][]int{{2, 3, 2}, {2}}, nil, func(_ *nn.Scope, in []*graph.Node) *graph.Node { return nn.Scale(in[0], in[1]) }},
		{"discriminator head, side 4", [][]int{{1, 4, 4, 3}}, nil, critic},
		{"discriminator head, side 8", [][]int{{1, 8, 8, 2}}, nil, critic},
		{"discriminator head, side 2", [][]int{{1, 2, 2, 3}}, nil, critic},
	}
	for _, l := range layers {
		t.Run(l.name, func(t *testing.T) { compareWithDifferences(t, l) })
	}
}

// tensor is one differentiated argument of a layer.
type tensor struct {
	name   string
	dims   []int
	values []float32
}

func compareWithDifferences(t *testing.T, l layer) {
	block := nn.Block{Kind: l.name, LoRA: l.lora, Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{l.build(s, in)}
	}}
	var args []tensor
	var in []shapes.Shape
	for i, dims := range l.inputs {
		args = append(args, tensor{name: fmt.Sprintf("input %d", i), dims: dims})
		in = append(in, shapes.Make(dtypes.Float32, dims...))
	}
	specs, err := nn.Trace(runtime.Backend, block, in...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		args = append(args, tensor{name: s.Name, dims: s.Dims})
	}
	for k := range args {
		n := shapes.Make(dtypes.Float32, args[k].dims...).Size()
		for i := range n { // irregular numbers of either sign
			args[k].values = append(args[k].values, float32(1.3*math.Sin(float64(1+k*37+i*i+i*5))))
		}
	}

	// One program: the output, then the gradients of Σ output·weight by every argument.
	g := graph.NewGraph(runtime.Backend, "differences")
	nodes := map[string]*graph.Node{}
	var by []*graph.Node
	for _, a := range args {
		nodes[a.name] = graph.Parameter(g, a.name, shapes.Make(dtypes.Float32, a.dims...))
		by = append(by, nodes[a.name])
	}
	var values []nn.Value
	for i := range l.inputs {
		values = append(values, by[i])
	}
	r := nn.NewInline(dtypes.Float32, "", nil, func(s nn.Spec) *graph.Node { return nodes[s.Name] })
	y := r.Run(block, values...)[0].(*graph.Node)
	weights := make([]float32, y.Shape().Size())
	for i := range weights {
		weights[i] = float32(math.Cos(float64(3*i + 1)))
	}
	flat := graph.Reshape(y, -1)
	loss := graph.ReduceAllSum(graph.Mul(flat, graph.Const(g, weights)))
	if err := g.Compile(append([]*graph.Node{flat}, graph.Gradient(loss, by...)...)...); err != nil {
		t.Fatal(err)
	}
	evaluate := func() [][]float32 { return evaluate(t, g, args) }
	gradients := evaluate()[1:]
	for k, a := range args {
		// The five-point rule lets the step be so large that f32's rounding does not matter.
		const h = 0.03
		at := func(i int, d float32) float64 {
			old := a.values[i]
			a.values[i] = old + d
			defer func() { a.values[i] = old }()
			sum := 0.0
			for j, v := range evaluate()[0] {
				sum += float64(v) * float64(weights[j])
			}
			return sum
		}
		largest := 0.0
		for _, v := range gradients[k] {
			largest = max(largest, math.Abs(float64(v)))
		}
		for n := range min(len(a.values), 24) {
			i := n * len(a.values) / min(len(a.values), 24)
			want := (8*(at(i, h)-at(i, -h)) - (at(i, 2*h) - at(i, -2*h))) / (12 * h)
			if d := math.Abs(float64(gradients[k][i]) - want); d > 2e-3*max(largest, 0.1) {
				t.Errorf("%s, element %d: gradient %g, differences say %g", a.name, i, gradients[k][i], want)
			}
		}
	}
}

// evaluate runs a compiled graph on f32 tensors.
func evaluate(t *testing.T, g *graph.Graph, args []tensor) [][]float32 {
	t.Helper()
	buffers := make([]compute.Buffer, len(args))
	for i, a := range args {
		buffers[i] = done(runtime.Backend.BufferFromFlatData(0, a.values, shapes.Make(dtypes.Float32, a.dims...)))(t)
	}
	results := done(g.Executable().Execute(buffers, nil, 0))(t)
	out := make([][]float32, len(results))
	for i, b := range results {
		out[i] = make([]float32, done(b.Shape())(t).Size())
		if err := b.ToFlatData(out[i]); err != nil {
			t.Fatal(err)
		}
		_ = b.Finalize()
	}
	for _, b := range buffers {
		_ = b.Finalize()
	}
	return out
}

func done[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Softplus and its derivative are finite and right at both ends and at zero, where its pieces meet.
func TestSoftplusEverywhere(t *testing.T) {
	x := []float32{-800, -30, 0, 30, 800}
	g := graph.NewGraph(runtime.Backend, "softplus")
	p := graph.Parameter(g, "x", shapes.Make(dtypes.Float32, len(x)))
	y := nn.Softplus(p)
	if err := g.Compile(y, graph.Gradient(graph.ReduceAllSum(y), p)[0]); err != nil {
		t.Fatal(err)
	}
	in := done(runtime.Backend.BufferFromFlatData(0, x, p.Shape()))(t)
	out := done(g.Executable().Execute([]compute.Buffer{in}, nil, 0))(t)
	for k, want := range [][]float64{{0, math.Exp(-30), math.Ln2, 30, 800}, {0, math.Exp(-30), 0.5, 1, 1}} {
		got := make([]float32, len(x))
		if err := out[k].ToFlatData(got); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if d := math.Abs(float64(got[i]) - want[i]); !(d <= 1e-6*want[i]) {
				t.Errorf("derivative %d of softplus at %g is %g, want %g", k, x[i], got[i], want[i])
			}
		}
	}
}
