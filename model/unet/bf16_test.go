package unet

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

var backend compute.Backend

func TestMain(m *testing.M) {
	xlatest.QuickCompile()
	rt, err := xla.Open(xla.Auto, xla.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	backend = rt.Backend
	os.Exit(m.Run())
}

// Of every kind of block, with and without adapters: the gradients in bf16 point where those in f32 do, and all
// products and convolutions of the gradient are of bf16 operands. (conv_out computes in f32: TestConvOutInF32.)
func TestGradientsInBF16(t *testing.T) {
	const c, text, batch, side, tokens = 64, 48, 2, 8, 7
	u := &Config{BlockOutChannels: []int{c}, OutChannels: 4, AdditionTimeDim: 8, LinearProjection: true, NormGroups: 8, NormEps: 1e-5}
	image, temb := []int{batch, side, side, c}, []int{batch, 4 * c}
	sequence, prompt := []int{batch, side * side, c}, []int{batch, tokens, text}
	transformer := u.transformer("", c, 4, 1).Compose
	part := func(k int) func(nn.Runner, []nn.Value) []nn.Value { // proj_in (0) or proj_out (2) alone
		return func(r nn.Runner, in []nn.Value) []nn.Value {
			only := &nth{Runner: r, keep: k}
			transformer(only, in)
			return only.out
		}
	}
	for _, b := range []struct {
		block  nn.Block
		inputs [][]int
	}{
		{u.conditioning(), [][]int{{batch}, {batch, 16}, {batch, TimeIDs}, prompt}},
		{u.resnet("", c, false), [][]int{image, temb}},
		{u.resnet("", 2*c, true), [][]int{image, temb, image}},
		{transformerBlock("", c, 4, false), [][]int{sequence, prompt}},
		{nn.Block{Kind: "transformer_proj_in", Compose: part(0)}, [][]int{image, prompt}},
		{nn.Block{Kind: "transformer_proj_out", Compose: part(2)}, [][]int{image, prompt}},
		{conv("", c, 2, false, false), [][]int{image}},
		{conv("", c, 1, true, false), [][]int{image}},
		{u.convIn(), [][]int{{batch, side, side, 4}}},
	} {
		for _, lora := range []*nn.LoRA{nil, {Rank: 4, Scale: 0.5}} {
			if lora != nil && b.block.Plain {
				continue
			}
			t.Run(fmt.Sprintf("%s, adapters %t", b.block.Kind, lora != nil), func(t *testing.T) {
				names, exact := gradients(t, b.block, dtypes.Float32, lora, b.inputs)
				_, rough := gradients(t, b.block, dtypes.BFloat16, lora, b.inputs)
				for i, name := range names {
					if cos := cosine(exact[i], rough[i]); !(cos >= 0.999) {
						t.Errorf("gradient by %s: cosine %.5f", name, cos)
					}
				}
			})
		}
	}
}

// conv_out computes in f32 at bf16 compute: on the same features its output and gradients are those of f32, those by
// features rounded once to the features' dtype. Its weights are marked to be kept in f32.
func TestConvOutInF32(t *testing.T) {
	const c, batch, side = 64, 2, 8
	u := &Config{BlockOutChannels: []int{c}, OutChannels: 4, NormGroups: 8, NormEps: 1e-5}
	dims := [][]int{{batch, side, side, c}, {batch, side, side, 4}}
	outputs := map[dtypes.DType][]float32{}
	for _, compute := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		g := graph.NewGraph(backend, "conv_out "+compute.String())
		var in []*graph.Node
		var names []string
		parameter := func(name string, d []int) *graph.Node {
			n := graph.Parameter(g, name, shapes.Make(dtypes.Float32, d...))
			in, names = append(in, n), append(names, name)
			return n
		}
		features := graph.ConvertDType(graph.ConvertDType(parameter("input 0", dims[0]), dtypes.BFloat16), compute)
		sample := parameter("input 1", dims[1])
		lookup := func(s nn.Spec) *graph.Node {
			if !s.Wide {
				t.Errorf("%s is not kept in f32", s.Name)
			}
			return parameter(s.Name, s.Dims)
		}
		out := nn.NewInline(compute, "", nil, lookup).Run(u.convOut(), features, sample)[0].(*graph.Node)
		if out.DType() != dtypes.Float32 {
			t.Errorf("%s: the output is %s", compute, out.DType())
		}
		grads := graph.Gradient(graph.ReduceAllMean(graph.Square(out)), features, in[len(in)-1])
		wide := []*graph.Node{out, graph.ConvertDType(grads[0], dtypes.Float32), grads[1]}
		for i, n := range wide {
			wide[i] = graph.Reshape(n, -1)
		}
		if err := g.Compile(graph.Concatenate(wide, 0)); err != nil {
			t.Fatal(err)
		}
		outputs[compute] = execute(t, g, names, in)[0]
	}
	exact, rough := outputs[dtypes.Float32], outputs[dtypes.BFloat16]
	n := batch * side * side * 4
	for i, want := range exact {
		limit := 1e-6
		if i >= n && i < len(exact)-4 {
			limit = 1.0 / 256 // bf16's half unit in the last place, relative
		}
		if math.Abs(float64(rough[i]-want)) > limit*(math.Abs(float64(want))+1e-3) {
			t.Fatalf("value %d of %d is %g at bf16 compute, %g at f32", i, len(exact), rough[i], want)
		}
	}
}

// nth runs only one of the blocks that it is given; the others pass their first input on.
type nth struct {
	nn.Runner
	keep, seen int
	out        []nn.Value
}

func (r *nth) Run(b nn.Block, in ...nn.Value) []nn.Value {
	k := r.seen
	r.seen++
	if k == r.keep {
		r.out = r.Runner.Run(b, in...)
		return r.out
	}
	return in[:1]
}

// gradients of Σ output·weight by every float input and parameter of a block, from one program.
func gradients(t *testing.T, b nn.Block, compute dtypes.DType, lora *nn.LoRA, dims [][]int) (names []string, values [][]float32) {
	t.Helper()
	g := graph.NewGraph(backend, "bf16")
	var by []*graph.Node
	var inputs []nn.Value
	parameter := func(name string, d []int) *graph.Node {
		n := graph.Parameter(g, name, shapes.Make(dtypes.Float32, d...))
		by, names = append(by, n), append(names, name)
		return n
	}
	for i, d := range dims {
		n := parameter(fmt.Sprintf("input %d", i), d)
		if len(d) == 4 || len(d) == 3 { // activations come in the compute dtype
			inputs = append(inputs, graph.ConvertDType(n, compute))
		} else {
			inputs = append(inputs, n)
		}
	}
	seen := map[string]*graph.Node{}
	lookup := func(s nn.Spec) *graph.Node {
		if seen[s.Name] == nil {
			seen[s.Name] = parameter(s.Name, s.Dims)
		}
		return seen[s.Name]
	}
	out := nn.NewInline(compute, "", lora, lookup).Run(b, inputs...)[0].(*graph.Node)
	weight := graph.Const(g, normals(99, out.Shape().Size()))
	weight = graph.Reshape(weight, out.Shape().Dimensions...)
	loss := graph.ReduceAllSum(graph.Mul(graph.ConvertDType(out, dtypes.Float32), weight))
	forward := len(g.Nodes())
	grads := graph.Gradient(loss, by...)
	for _, n := range g.Nodes()[forward:] {
		if n.Type() == graph.NodeTypeDotGeneral || n.Type() == graph.NodeTypeConvGeneral {
			for _, in := range n.Inputs() {
				if in.DType() != compute {
					t.Errorf("a %s of the gradient has an operand %s", n.Type(), in.Shape())
				}
			}
		}
	}
	if err := g.Compile(grads...); err != nil {
		t.Fatal(err)
	}
	return names, execute(t, g, names, by)
}

// execute runs a graph on reproducible numbers of the sizes that such tensors have, and reads its f32 outputs.
func execute(t *testing.T, g *graph.Graph, names []string, in []*graph.Node) (out [][]float32) {
	t.Helper()
	var buffers []compute.Buffer
	for k, n := range in {
		v := normals(uint64(k), n.Shape().Size())
		scale, shift := 1.0, 0.0
		switch {
		case strings.HasPrefix(names[k], "input"):
		case n.Shape().Rank() > 1:
			scale = 1 / math.Sqrt(float64(len(v)/n.Shape().Dim(0)))
		case strings.HasSuffix(names[k], ".weight"):
			scale, shift = 0.1, 1
		default:
			scale = 0.1
		}
		for i := range v {
			v[i] = float32(float64(v[i])*scale + shift)
		}
		b, err := backend.BufferFromFlatData(0, v, n.Shape())
		if err != nil {
			t.Fatal(err)
		}
		buffers = append(buffers, b)
	}
	results, err := g.Executable().Execute(buffers, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for k, r := range results {
		v := make([]float32, g.Executable().Outputs()[k].Size())
		if err := r.ToFlatData(v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func normals(seed uint64, n int) []float32 {
	rng := rand.New(rand.NewPCG(seed, 7))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	if aa == 0 && bb == 0 {
		return 1
	}
	return ab / math.Sqrt(aa*bb)
}
