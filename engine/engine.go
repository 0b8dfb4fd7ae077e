package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fewstep/internal/xla"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Engine compiles and runs programs on one device.
type Engine struct {
	Backend     compute.Backend
	Compute     dtypes.DType // dtype of activations and products: Float32 or BFloat16
	Granularity nn.Level
	Split       bool         // network granularity only: update tensor by tensor after the gradient (see split.go)
	Frozen      dtypes.DType // dtype in which matrices and kernels that nothing trains are kept: BFloat16, else Float32
	Calls       nn.Level     // granularity of calls without gradients, if it is coarser than Granularity
	Offload     int          // elements from which on a trained tensor's optimizer state lies in the host's memory (see offload.go); 0 = none does

	Shard bool // in a group: optimizer state and f32 masters are dealt out over its devices (see shard.go)

	// Sites gives every place of a network programs of its own, where places of one shape would share them. XLA records a
	// program's kernels as CUDA graphs. A graph holds addresses and is rewritten whenever they differ from the last call's; a
	// program of one place is called with the same addresses, so its graph stays. The copies of a program are loaded from the
	// folder of compiled programs, so Sites takes one.
	Sites bool

	Flash bool // of a dry engine: the device computes attention without keeping its scores

	// Context, if not nil, ends what takes long before a program runs: once it has ended, loading weights and waiting for
	// programs to compile return its error. A compilation that is going on then goes on by itself, since nothing stops it. It
	// leaves what was called half done: it is for work that nothing is lost of. It is this engine's alone, not its group's.
	Context context.Context

	// Watch, if not nil, is told of every program's execution: with the layer of internal/xla, when it was queued and how
	// long that took; without, when it ran.
	Watch func(program string, start time.Time, took time.Duration)

	device  device
	group   *Group // the devices that train together with this one; nil = it is alone
	slot    int    // among those of this process
	rank    int    // among those of all processes
	ahead   *ahead // it compiles what it would run, and runs nothing
	updates stopwatch
	runs    atomic.Int64
	waits   atomic.Int64
	*store
	*plans
	account
}

// New makes an engine on device 0.
func New(backend compute.Backend, computeType dtypes.DType, granularity nn.Level) *Engine {
	return &Engine{Backend: backend, Compute: computeType, Granularity: granularity, device: onXLA{backend: backend}, store: newStore(), plans: newPlans()}
}

// like is an engine of the same settings on another device, which shares this one's programs.
func (e *Engine) like(d device) *Engine {
	return &Engine{Backend: e.Backend, Compute: e.Compute, Granularity: e.Granularity, Split: e.Split, Frozen: e.Frozen, Calls: e.Calls,
		Offload: e.Offload, Shard: e.Shard, Sites: e.Sites, Flash: e.Flash, device: d, store: e.store, plans: e.plans}
}

// On are engines of the same settings on the first n devices of the backend, which share their programs. This one, on device
// 0, is the first.
func (e *Engine) On(n int) ([]*Engine, error) {
	if have := int(e.Backend.NumDevices()); n < 1 || n > have {
		return nil, fmt.Errorf("%d devices are asked for, and this process drives %d", n, have)
	}
	all := []*Engine{e}
	for i := 1; i < n; i++ {
		all = append(all, e.like(onXLA{e.Backend, compute.DeviceNum(i)}))
	}
	return all, nil
}

// Runs counts the programs that were run, or queued to be run.
func (e *Engine) Runs() int64 { return e.runs.Load() }

// Waits counts the arrays that the host waited for, to read them.
func (e *Engine) Waits() int64 { return e.waits.Load() }

// FrozenDType is the dtype in which matrices and kernels that nothing trains are kept.
func (e *Engine) FrozenDType() dtypes.DType {
	if e.Frozen == dtypes.InvalidDType {
		return dtypes.Float32
	}
	return e.Frozen
}

// Array is a tensor on the device.
type Array struct {
	buffer compute.Buffer
	shape  shapes.Shape
	turned bool // see frozen.go
	of     *account
	host   bool // it lies in the host's memory, and programs cannot take it (see offload.go)

	working bool   // a bf16 copy of a trained tensor, to compute with (see shard.go) ...
	master  *Array // ... of this one in f32, where this device owns it
}

// Shape implements nn.Value.
func (a *Array) Shape() shapes.Shape { return a.shape }

// Free gives the memory back now. The array must not be used again.
func (a *Array) Free() {
	if a != nil && a.buffer != nil {
		_ = a.buffer.Finalize()
		a.gone()
		a.master.Free()
	}
}

// gone forgets a buffer that was freed or donated.
func (a *Array) gone() {
	a.buffer = nil
	if a.host {
		a.of.addHost(-bytesOf(a.shape))
		return
	}
	a.of.add(-bytesOf(a.shape), 0, 0)
}

// Free frees several arrays.
func Free(arrays ...*Array) {
	for _, a := range arrays {
		a.Free()
	}
}

// Upload copies a flat slice ([]float32, []int32, []bfloat16.BFloat16, …) to the device.
func (e *Engine) Upload(flat any, dims ...int) (*Array, error) {
	dtype := dtypes.FromAny(flat)
	if dtype == dtypes.InvalidDType {
		switch flat.(type) {
		case []float32:
			dtype = dtypes.Float32
		case []int32:
			dtype = dtypes.Int32
		case []bfloat16.BFloat16:
			dtype = dtypes.BFloat16
		default:
			return nil, fmt.Errorf("cannot upload a %T", flat)
		}
	}
	shape := shapes.Make(dtype, dims...)
	buffer, err := e.device.upload(flat, shape)
	if err != nil {
		return nil, fmt.Errorf("uploading a tensor of shape %v: %w", dims, err)
	}
	return e.array(buffer, shape), nil
}

// array takes a buffer into the engine's account.
func (e *Engine) array(buffer compute.Buffer, shape shapes.Shape) *Array {
	e.account.add(bytesOf(shape), 0, 0)
	return &Array{buffer: buffer, shape: shape, of: &e.account}
}

// Floats copies an f32 or bf16 array to the host. It waits for the programs that the array comes from, and returns
// what went wrong in them.
func (e *Engine) Floats(a *Array) ([]float32, error) {
	if a == nil {
		return nil, errors.New("the tensor lies on a device of another process")
	}
	if a.buffer == nil {
		return nil, fmt.Errorf("array of shape %v was freed, or given to a training step, and cannot be read", a.shape.Dimensions)
	}
	e.waits.Add(1)
	if a.shape.DType == dtypes.BFloat16 {
		v, err := e.widened(a)
		if err == nil && a.turned {
			v = upright(v, a.shape.Dimensions)
		}
		return v, err
	}
	if a.shape.DType != dtypes.Float32 {
		return nil, fmt.Errorf("array of %v read as f32", a.shape)
	}
	out := make([]float32, a.shape.Size())
	if err := a.buffer.ToFlatData(out); err != nil {
		return nil, fmt.Errorf("reading a tensor of shape %v from the device: %w", a.shape.Dimensions, err)
	}
	return out, nil
}

// Bind names the parameters of each network that a function uses.
type Bind map[string]*Params

// Function is a computation over networks. Body may only call r.Run; equal keys must mean equal bodies.
type Function struct {
	Key  string
	Body func(r nn.Runner, in []nn.Value) []nn.Value
}

// program is a graph: first built, so that its shapes are known, then compiled. Its parameters are inputs in the
// order in which they were made.
type program struct {
	key, name      string
	declared, once sync.Once
	err            error
	graph          *graph.Graph
	pending        []*graph.Node  // outputs of the built graph
	outputs        []shapes.Shape // their shapes
	params         []string       // scope names of the network parameters, in graph order
	aliases        map[int]int    // inputs that share a buffer with an output when they are donated, by input
	span           *xla.Span      // devices of several processes run it together; nil = of this one
	scratch        int64          // bytes that it takes beside its inputs and outputs
	compiled       chan struct{}  // closed when it is, or cannot be
	takes, gives   layout         // the groups of its arguments and results, where they have names: see arguments.go
	given          []*graph.Node  // results of the groups, until they are pending
}

// build fills a graph and returns its outputs.
type build func(g *graph.Graph, p *program) []*graph.Node

// get returns the program of a key, building and compiling it the first time. Several goroutines may compile
// different keys at once.
func (e *Engine) get(key string, fill build) (*program, error) {
	p, err := e.declare(key, fill)
	if err != nil {
		return nil, err
	}
	if err := e.ready(p); err != nil {
		return nil, err
	}
	return p, nil
}

// ready sees to it that a declared program is compiled.
func (e *Engine) ready(p *program) error {
	if e.ahead != nil {
		return e.ahead.need(p)
	}
	select {
	case <-p.compiled:
		return p.err
	default:
	}
	if e.Context == nil {
		e.compile(p, e.device)
		return p.err
	}
	go e.compile(p, e.device)
	select {
	case <-p.compiled:
		return p.err
	case <-e.Context.Done():
		return e.Context.Err()
	}
}

// interrupted is why work is not to go on; nil = it is.
func (e *Engine) interrupted() error {
	if e.Context == nil {
		return nil
	}
	return e.Context.Err()
}

// execute runs a compiled program on device buffers; donated arrays are gone afterwards.
func (e *Engine) execute(p *program, in []*Array, donate []bool) ([]*Array, error) {
	if err := e.ready(p); err != nil {
		return nil, err
	}
	buffers, err := buffersOf(in)
	if err != nil {
		return nil, err
	}
	e.runs.Add(1)
	start := time.Now()
	results, err := e.device.run(p, buffers, donate)
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", p.name, err)
	}
	if e.Watch != nil {
		e.Watch(p.name, start, time.Since(start))
	}
	return e.came(p, in, donate, results), nil
}

// buffersOf are a program's inputs.
func buffersOf(in []*Array) ([]compute.Buffer, error) {
	buffers := make([]compute.Buffer, len(in))
	for i, a := range in {
		if a.buffer == nil {
			return nil, fmt.Errorf("program input %d of shape %v was already freed", i, a.shape)
		}
		if a.host {
			return nil, fmt.Errorf("program input %d of shape %v lies in the host's memory", i, a.shape)
		}
		buffers[i] = a.buffer
	}
	return buffers, nil
}

// came takes what a program made of in on this device into the account.
func (e *Engine) came(p *program, in []*Array, donate []bool, results []compute.Buffer) []*Array {
	var fresh int64 // bytes that no donated input gives
	for _, shape := range p.outputs {
		fresh += bytesOf(shape)
	}
	for i := range p.aliases {
		if donate != nil && donate[i] {
			fresh -= bytesOf(in[i].shape)
		}
	}
	if e.ahead == nil { // which does not wait for a program to be compiled, and to tell its scratch space
		e.account.add(0, fresh, p.scratch)
	}
	for i, d := range donate {
		if d {
			in[i].gone()
		}
	}
	out := make([]*Array, len(results))
	for i, b := range results {
		out[i] = e.array(b, p.outputs[i])
	}
	return out
}

// guard turns GoMLX's panics into errors.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(error); ok {
				err = e
			} else {
				err = fmt.Errorf("%v", r)
			}
		}
	}()
	return f()
}

func inputNodes(g *graph.Graph, shapesIn []shapes.Shape) []nn.Value {
	values := make([]nn.Value, len(shapesIn))
	for i, s := range shapesIn {
		values[i] = graph.Parameter(g, fmt.Sprintf("#%d", i), s)
	}
	return values
}

func shapesOf(in []*Array) []shapes.Shape {
	out := make([]shapes.Shape, len(in))
	for i, a := range in {
		out[i] = a.shape
	}
	return out
}

func shapesOfNodes(nodes []*graph.Node) []shapes.Shape {
	out := make([]shapes.Shape, len(nodes))
	for i, n := range nodes {
		out[i] = n.Shape()
	}
	return out
}
