package nn

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Lookup returns the graph node that holds a parameter, in whatever dtype it is stored.
type Lookup func(spec Spec) *graph.Node

// Scope gives a block's Build function its parameters and the layers that use them.
// It panics on a shape that does not fit, as GoMLX does while building; the engine turns that into an error.
type Scope struct {
	Compute dtypes.DType // dtype of activations and matrix products
	prefix  string
	lora    *LoRA
	lookup  Lookup
	wide    bool
}

// NewScope starts at prefix ("" for the root).
func NewScope(compute dtypes.DType, prefix string, lora *LoRA, lookup Lookup) *Scope {
	return &Scope{Compute: compute, prefix: prefix, lora: lora, lookup: lookup}
}

// Join appends a relative name to a parameter scope.
func Join(prefix, name string) string {
	switch {
	case prefix == "":
		return name
	case name == "":
		return prefix
	}
	return prefix + "." + name
}

// Sub is the scope below name.
func (s *Scope) Sub(name string) *Scope {
	c := *s
	c.prefix = Join(s.prefix, name)
	return &c
}

// InF32 is the scope computing in f32, with weights that are f32 even where nothing trains them.
func (s *Scope) InF32() *Scope {
	c := *s
	c.Compute, c.wide = dtypes.Float32, true
	return &c
}

// Param is a parameter in the compute dtype.
func (s *Scope) Param(name string, init Init, dims ...int) *graph.Node {
	return graph.ConvertDType(s.Master(name, init, dims...), s.Compute)
}

// Master is a parameter in f32, whatever the compute dtype: norms' gains and biases.
func (s *Scope) Master(name string, init Init, dims ...int) *graph.Node {
	spec := Spec{Name: Join(s.prefix, name), Dims: dims, Init: init, Wide: s.wide}
	p := s.lookup(spec)
	if !p.Shape().EqualDimensions(shapes.Make(p.DType(), dims...)) {
		panic(fmt.Errorf("parameter %q has shape %v, the network needs %v", spec.Name, p.Shape().Dimensions, dims))
	}
	return graph.ConvertDType(p, dtypes.Float32)
}

// weight is a linear or convolution weight with its adapter, if the network has adapters, folded in:
// at the widths where rank is not small against width this is cheaper than two extra products per call.
func (s *Scope) weight(name string, dims ...int) *graph.Node {
	w := s.Master(name, FanIn, dims...)
	if s.lora == nil {
		return graph.ConvertDType(w, s.Compute)
	}
	down, up := LoRADims(dims, s.lora.Rank)
	d := s.Master(name+".lora_down", FanInLoRA, down...)
	u := s.Master(name+".lora_up", Zeros, up...)
	return graph.ConvertDType(Adapted(w, d, u, *s.lora), s.Compute)
}

// beside says whether an adapter of a weight is computed beside it, by two thin products of the activations, rather
// than folded into the weight: where it is thin, that saves the product that a gradient by the whole weight would take.
func (s *Scope) beside(dims []int) bool {
	if s.lora == nil {
		return false
	}
	in := 1
	for _, d := range dims[1:] {
		in *= d
	}
	return 2*s.lora.Rank*(in+dims[0]) <= in*dims[0]
}

// factors are the adapter of a weight in the compute dtype.
func (s *Scope) factors(name string, dims []int) (down, up *graph.Node) {
	d, u := LoRADims(dims, s.lora.Rank)
	return s.Param(name+".lora_down", FanInLoRA, d...), s.Param(name+".lora_up", Zeros, u...)
}

// Adapted is W + scale · up∘down, in W's shape.
func Adapted(w, down, up *graph.Node, lora LoRA) *graph.Node {
	d := w.Shape().Dimensions
	delta := graph.MatMul(graph.Reshape(up, d[0], lora.Rank), graph.Reshape(down, lora.Rank, -1))
	return graph.Add(w, graph.MulScalar(graph.Reshape(delta, d...), lora.Scale))
}

// AdapterGradients are the gradients of an adapter's factors from the gradient of the adapted weight.
func AdapterGradients(grad, down, up *graph.Node, lora LoRA) (byDown, byUp *graph.Node) {
	out := grad.Shape().Dim(0)
	g := graph.MulScalar(graph.Reshape(grad, out, -1), lora.Scale)
	u, d := graph.Reshape(up, out, lora.Rank), graph.Reshape(down, lora.Rank, -1)
	byDown = graph.DotGeneral(u, []int{0}, nil, g, []int{0}, nil)
	byUp = graph.DotGeneral(g, []int{1}, nil, d, []int{1}, nil)
	return graph.Reshape(byDown, down.Shape().Dimensions...), graph.Reshape(byUp, up.Shape().Dimensions...)
}

// LoRADims are the shapes of an adapter's factors for a weight: a convolution's down has the convolution's kernel,
// its up is 1×1 (kohya's convention).
func LoRADims(weight []int, rank int) (down, up []int) {
	down = append([]int{rank}, weight[1:]...)
	up = []int{weight[0], rank}
	for range weight[2:] {
		up = append(up, 1)
	}
	return down, up
}

// Linear is x·Wᵀ + b over the last axis; the weight is [out, in] as in PyTorch.
func (s *Scope) Linear(name string, x *graph.Node, out int, bias bool) *graph.Node {
	dims := x.Shape().Dimensions
	in := dims[len(dims)-1]
	// Conditions come in f32 whatever the compute dtype.
	flat := graph.ConvertDType(graph.Reshape(x, -1, in), s.Compute)
	var y *graph.Node
	if weight := name + ".weight"; s.beside([]int{out, in}) {
		y = times(flat, s.Param(weight, FanIn, out, in))
		down, up := s.factors(weight, []int{out, in})
		y = graph.Add(y, graph.MulScalar(times(times(flat, down), up), s.lora.Scale))
	} else {
		y = times(flat, s.weight(weight, out, in))
	}
	if bias {
		b := s.Param(name+".bias", Zeros, out)
		y = graph.Add(y, graph.BroadcastToShape(graph.Reshape(b, 1, out), y.Shape()))
	}
	outDims := append(append([]int{}, dims[:len(dims)-1]...), out)
	return graph.Reshape(y, outDims...)
}

// times is x·Wᵀ.
func times(x, w *graph.Node) *graph.Node { return graph.DotGeneral(x, []int{1}, nil, w, []int{1}, nil) }

// Conv is a 2-D convolution of an NHWC input; the weight is [out, in, k, k] as in PyTorch.
func (s *Scope) Conv(name string, x *graph.Node, out, kernel, stride, pad int) *graph.Node {
	return s.conv(name, x, out, kernel, stride, pad, true)
}

// ConvNoBias is Conv without a bias term.
func (s *Scope) ConvNoBias(name string, x *graph.Node, out, kernel, stride, pad int) *graph.Node {
	return s.conv(name, x, out, kernel, stride, pad, false)
}

func (s *Scope) conv(name string, x *graph.Node, out, kernel, stride, pad int, bias bool) *graph.Node {
	in := x.Shape().Dim(-1)
	weight, dims := name+".weight", []int{out, in, kernel, kernel}
	var y *graph.Node
	if s.beside(dims) {
		y = Convolve(x, s.Param(weight, FanIn, dims...), stride, pad)
		down, up := s.factors(weight, dims)
		y = graph.Add(y, graph.MulScalar(Convolve(Convolve(x, down, stride, pad), up, 1, 0), s.lora.Scale))
	} else {
		y = Convolve(x, s.weight(weight, dims...), stride, pad)
	}
	if bias {
		b := s.Param(name+".bias", Zeros, out)
		y = graph.Add(y, graph.BroadcastToShape(graph.Reshape(b, 1, 1, 1, out), y.Shape()))
	}
	return y
}

// Convolve applies an OIHW kernel to an NHWC input with the same padding on all sides.
//
// GoMLX's gradient of a convolution with respect to its input is wrong for even kernels; such a kernel is widened
// by a zero row and column in front and the low padding by one, which is the same function with the right gradient.
func Convolve(x, w *graph.Node, stride, pad int) *graph.Node {
	g := x.Graph()
	d := w.Shape().Dimensions
	if d[2] == 1 && d[3] == 1 && stride == 1 && pad == 0 {
		xs := x.Shape().Dimensions
		y := graph.DotGeneral(graph.Reshape(x, -1, d[1]), []int{1}, nil, graph.Reshape(w, d[0], d[1]), []int{1}, nil)
		return graph.Reshape(y, xs[0], xs[1], xs[2], d[0])
	}
	if pureGo(g) {
		return patches(x, w, stride, pad)
	}
	low := [2]int{pad, pad}
	if d[2]%2 == 0 {
		w = graph.Concatenate([]*graph.Node{graph.Zeros(g, shapes.Make(w.DType(), d[0], d[1], 1, d[3])), w}, 2)
		low[0]++
	}
	if d[3]%2 == 0 {
		h := w.Shape().Dim(2)
		w = graph.Concatenate([]*graph.Node{graph.Zeros(g, shapes.Make(w.DType(), d[0], d[1], h, 1)), w}, 3)
		low[1]++
	}
	// HWIO: the layout XLA's CPU and GPU back ends both take without a copy of the activations.
	w = graph.TransposeAllAxes(w, 2, 3, 1, 0)
	return graph.Convolve(x, w).Strides(stride).
		PaddingPerDim([][2]int{{low[0], pad}, {low[1], pad}}).Done()
}

// GroupNorm normalises each sample over groups of channels of an NHWC input, statistics in f32.
func (s *Scope) GroupNorm(name string, x *graph.Node, groups int, eps float64) *graph.Node {
	d := x.Shape().Dimensions
	c := d[3]
	if c%groups != 0 {
		panic(fmt.Errorf("group norm %q: %d channels do not divide into %d groups", Join(s.prefix, name), c, groups))
	}
	h := graph.Reshape(graph.ConvertDType(x, dtypes.Float32), d[0], d[1]*d[2], groups, c/groups)
	h = normalise(h, eps, 1, 3)
	h = graph.Reshape(h, d...)
	return s.affine(name, h, x.DType())
}

// LayerNorm normalises over the last axis, statistics in f32.
func (s *Scope) LayerNorm(name string, x *graph.Node, eps float64) *graph.Node {
	h := normalise(graph.ConvertDType(x, dtypes.Float32), eps, x.Rank()-1)
	return s.affine(name, h, x.DType())
}

func (s *Scope) affine(name string, h *graph.Node, to dtypes.DType) *graph.Node {
	c := h.Shape().Dim(-1)
	dims := make([]int, h.Rank())
	for i := range dims {
		dims[i] = 1
	}
	dims[len(dims)-1] = c
	gain := graph.BroadcastToShape(graph.Reshape(s.Master(name+".weight", Ones, c), dims...), h.Shape())
	bias := graph.BroadcastToShape(graph.Reshape(s.Master(name+".bias", Zeros, c), dims...), h.Shape())
	return graph.ConvertDType(graph.Add(graph.Mul(h, gain), bias), to)
}

func normalise(x *graph.Node, eps float64, axes ...int) *graph.Node {
	mean := graph.ReduceAndKeep(x, graph.ReduceMean, axes...)
	centred := graph.Sub(x, mean)
	variance := graph.ReduceAndKeep(graph.Square(centred), graph.ReduceMean, axes...)
	inv := graph.Reciprocal(graph.Sqrt(graph.AddScalar(variance, eps)))
	return graph.Mul(centred, inv)
}

// Lookups by graph parameters: each name becomes a parameter of g the first time it is asked for.
func parameterOf(g *graph.Graph, dtype dtypes.DType, s Spec) *graph.Node {
	return graph.Parameter(g, s.Name, shapes.Make(dtype, s.Dims...))
}

// Trace lists the parameters of a block, in the order of first use, by building it on a graph that is thrown away.
func Trace(backend compute.Backend, b Block, in ...shapes.Shape) (specs []Spec, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("tracing %s: %v", b.Kind, r)
		}
	}()
	g := graph.NewGraph(backend, "trace")
	defer g.Finalize()
	seen := map[string]*graph.Node{}
	lookup := func(s Spec) *graph.Node {
		if n, ok := seen[s.Name]; ok {
			return n
		}
		specs = append(specs, s)
		seen[s.Name] = parameterOf(g, dtypes.Float32, s)
		return seen[s.Name]
	}
	values := make([]Value, len(in))
	for i, shape := range in {
		values[i] = graph.Parameter(g, fmt.Sprintf("#%d", i), shape)
	}
	b.Name = ""
	NewInline(dtypes.Float32, "", nil, lookup).Run(b, values...)
	return specs, nil
}
