package golden

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

const (
	forwardTolerance  = 1e-4 // largest difference over largest value of an output
	gradientTolerance = 1e-3
	bfloat16Tolerance = 5e-2 // of outputs computed in bf16
)

// comparison is one golden model: its folder below testdata, our block, and what its inputs and outputs are called.
type comparison struct {
	folder  string
	block   nn.Block // with the name "net"
	inputs  []string
	integer []string // inputs that our network takes as int32
	outputs []string
	given   map[string]array // inputs that are derived from the golden ones
	scale   func(parameter string) float32
}

func TestMain(m *testing.M) {
	xlatest.QuickCompile()
	os.Exit(m.Run())
}

// array is a host tensor in our layout (NHWC).
type array struct {
	dims   []int
	values []float32
}

var opened = sync.OnceValues(func() (*xla.Runtime, error) { return xla.Open(xla.CPU, xla.Options{}) })

// backend is the CPU plugin. Without one the test fails, except in -short mode.
func backend(t *testing.T) *xla.Runtime {
	t.Helper()
	rt, err := opened()
	if err != nil {
		if testing.Short() {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	return rt
}

func golden(t *testing.T, folder string) map[string]array {
	t.Helper()
	f, err := weights.Open(filepath.Join("testdata", folder, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]array{}
	for _, name := range f.Names() {
		tensor, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		values, err := tensor.Float32()
		if err != nil {
			t.Fatal(err)
		}
		a := array{tensor.Shape, values}
		if len(a.dims) == 4 && !strings.HasPrefix(name, "grad.param.") {
			a = channelsLast(a)
		}
		out[name] = a
	}
	return out
}

// channelsLast turns PyTorch's NCHW into NHWC.
func channelsLast(a array) array {
	n, c, h, w := a.dims[0], a.dims[1], a.dims[2], a.dims[3]
	out := array{[]int{n, h, w, c}, make([]float32, len(a.values))}
	for i := range n {
		for j := range c {
			for k := range h * w {
				out.values[(i*h*w+k)*c+j] = a.values[(i*c+j)*h*w+k]
			}
		}
	}
	return out
}

// run compares parameter lists, outputs and gradients of one model as a single program. In -short mode there are no
// gradients, whose compilation takes most of the time.
func (c comparison) run(t *testing.T) {
	t.Parallel()
	rt := backend(t)
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	want, inputs, params := c.upload(t, e, nil)
	var factors []*engine.Array
	for _, name := range c.outputs {
		factors = append(factors, c.array(t, e, want["cot."+name], false))
	}
	// Gradients of Σ output·factor for every input and parameter.
	fingerprints := c.fingerprints(t)
	var gradients []string
	for name := range want {
		if strings.HasPrefix(name, "grad.") {
			gradients = append(gradients, name)
		}
	}
	for name := range fingerprints {
		if whole := "grad.param." + name; want[whole].dims == nil {
			gradients = append(gradients, whole)
		}
	}
	slices.Sort(gradients)
	if testing.Short() {
		gradients = nil
	}
	f := engine.Function{Key: c.folder, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		out := r.Run(c.block, in[:len(c.inputs)]...)
		if len(gradients) > 0 {
			out = append(out, c.gradientsOf(gradients, out, in)...)
		}
		return out
	}}
	got, err := e.Call(f, engine.Bind{c.block.Name: params}, append(inputs, factors...)...)
	if err != nil {
		t.Fatal(err)
	}
	c.compare(t, e, got[:len(c.outputs)], want, forwardTolerance)
	c.compareGradients(t, e, got[len(c.outputs):], gradients, want, fingerprints)
}

// runLayers compares the outputs of one model that is run layer by layer on e, which other models share: blocks of
// equal kinds are then one program, and a kind that leaves out a setting shows.
func (c comparison) runLayers(t *testing.T, e *engine.Engine, tolerance float64) {
	want, inputs, params := c.upload(t, e, nil)
	f := engine.Function{Key: c.folder, Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(c.block, in...) }}
	got, err := e.Call(f, engine.Bind{c.block.Name: params}, inputs...)
	if err != nil {
		t.Fatal(err)
	}
	c.compare(t, e, got, want, tolerance)
}

// runTape compares the gradients by every parameter of one model that is trained layer by layer on e.
func (c comparison) runTape(t *testing.T, e *engine.Engine) {
	want, inputs, params := c.upload(t, e, func(string) bool { return true })
	for _, name := range c.outputs {
		inputs = append(inputs, c.array(t, e, want["cot."+name], false))
	}
	optimizer, err := e.NewOptimizer(engine.Adam{Beta1: 0.5, Beta2: 0.5}, params)
	if err != nil {
		t.Fatal(err)
	}
	defer optimizer.Free()
	loss := nn.Block{Kind: "golden_loss", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		sum := graph.ScalarZero(in[0].Graph(), dtypes.Float32)
		for i := range len(in) / 2 {
			sum = graph.Add(sum, graph.ReduceAllSum(graph.Mul(in[i], in[len(in)/2+i])))
		}
		return []*graph.Node{sum}
	}}
	f := engine.Function{Key: "tape " + c.folder, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		out := r.Run(c.block, in[:len(c.inputs)]...)[:len(c.outputs)]
		return r.Run(loss, append(slices.Clone(out), in[len(c.inputs):]...)...)
	}}
	res, err := e.Train(f, engine.Bind{c.block.Name: params}, c.block.Name, optimizer, engine.Step{}, inputs...)
	if err != nil {
		t.Fatal(err)
	}
	engine.Free(res.Outputs...)
	_, state := e.SaveOptimizer(optimizer)
	fingerprints, largest := c.fingerprints(t), 0.0
	for _, f := range fingerprints {
		largest = max(largest, f[0])
	}
	for name, f := range fingerprints {
		gradient, err := state(nn.Spec{Name: "m." + name})
		if err != nil {
			t.Fatal(err)
		}
		for i := range gradient {
			gradient[i] *= 2
		}
		if err := f.close(name, gradient, largest); err != nil {
			t.Errorf("gradient of %s: %v", name, err)
		}
	}
}

// gradientsOf builds the named gradients of Σ output·factor; in holds the inputs and then a factor for each output.
func (c comparison) gradientsOf(names []string, out, in []nn.Value) (of []nn.Value) {
	g := in[0].(*graph.Node).Graph()
	loss := graph.ScalarZero(g, dtypes.Float32)
	for i := range c.outputs {
		loss = graph.Add(loss, graph.ReduceAllSum(graph.Mul(out[i].(*graph.Node), in[len(c.inputs)+i].(*graph.Node))))
	}
	var targets []*graph.Node
	for _, name := range names {
		if p, ok := strings.CutPrefix(name, "grad.param."); ok {
			targets = append(targets, g.GetParameterByName(nn.Join(c.block.Name, p)))
		} else {
			targets = append(targets, in[slices.Index(c.inputs, strings.TrimPrefix(name, "grad.in."))].(*graph.Node))
		}
	}
	for _, d := range graph.Gradient(loss, targets...) {
		of = append(of, d)
	}
	return of
}

// upload reads the golden file, checks our parameters against the library's, and puts inputs and weights on the device.
func (c comparison) upload(t *testing.T, e *engine.Engine, trained func(name string) bool) (want map[string]array, inputs []*engine.Array, params *engine.Params) {
	t.Helper()
	want = golden(t, c.folder)
	for name, a := range c.given {
		want["in."+name] = a
	}
	var inShapes []shapes.Shape
	for _, name := range c.inputs {
		a := c.array(t, e, want["in."+name], slices.Contains(c.integer, name))
		inputs, inShapes = append(inputs, a), append(inShapes, a.Shape())
	}
	specs, err := nn.Trace(e.Backend, c.block, inShapes...)
	if err != nil {
		t.Fatal(err)
	}
	c.sameParameters(t, specs)
	tensors := engine.Tensors{}
	for _, s := range specs {
		tensors[s.Name] = weight(s.Name, s.Dims)
		if c.scale != nil {
			for i := range tensors[s.Name] {
				tensors[s.Name][i] *= c.scale(s.Name)
			}
		}
	}
	if params, err = e.Load(specs, tensors, trained); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(params.FreeAll)
	return want, inputs, params
}

func (c comparison) array(t *testing.T, e *engine.Engine, a array, integer bool) *engine.Array {
	t.Helper()
	var flat any = a.values
	if integer {
		ids := make([]int32, len(a.values))
		for i, v := range a.values {
			ids[i] = int32(v)
		}
		flat = ids
	}
	u, err := e.Upload(flat, a.dims...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// compare checks the outputs.
func (c comparison) compare(t *testing.T, e *engine.Engine, got []*engine.Array, want map[string]array, tolerance float64) {
	t.Helper()
	if len(got) != len(c.outputs) {
		t.Fatalf("%d outputs, want %d", len(got), len(c.outputs))
	}
	for i, a := range got {
		values, err := e.Floats(a)
		if err != nil {
			t.Fatal(err)
		}
		name := "out." + c.outputs[i]
		if err := close(values, a.Shape().Dimensions, want[name], tolerance); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// close says how far got is from want, relative to want's largest value.
func close(got []float32, dims []int, want array, tolerance float64) error {
	if !slices.Equal(dims, want.dims) {
		return fmt.Errorf("shape %v, want %v", dims, want.dims)
	}
	var difference, largest float64
	for i, w := range want.values {
		d := math.Abs(float64(got[i]) - float64(w))
		if math.IsNaN(d) {
			return fmt.Errorf("element %d is %g, want %g", i, got[i], w)
		}
		difference, largest = max(difference, d), max(largest, math.Abs(float64(w)))
	}
	if largest == 0 || difference > tolerance*largest {
		return fmt.Errorf("differs by %g of %g", difference, largest)
	}
	return nil
}

// sameParameters compares names and shapes with the library's state dict.
func (c comparison) sameParameters(t *testing.T, specs []nn.Spec) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", c.folder, "tensors.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]int{}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		dims, ok := want[s.Name]
		if !ok {
			t.Errorf("parameter %q is not in the library's state dict", s.Name)
		} else if !slices.Equal(dims, s.Dims) {
			t.Errorf("parameter %q has shape %v, the library's %v", s.Name, s.Dims, dims)
		}
		delete(want, s.Name)
	}
	for name := range want {
		t.Errorf("parameter %q of the library's state dict is not used", name)
	}
}

func configOf(folder string) string { return filepath.Join("testdata", folder, "config.json") }
