package engine

import (
	"maps"
	"slices"

	"fewstep/internal/xla"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Dry makes an engine that runs nothing. Calls and training steps allocate and free arrays without content as they would
// allocate and free real ones, so Memory tells what they would take on a device. Outputs read as zeros. Programs are built, on
// any backend, and not compiled; scratch estimates the scratch space of a compiled one.
func Dry(backend compute.Backend, computeType dtypes.DType, granularity nn.Level) *Engine {
	e := New(planning{backend}, computeType, granularity)
	e.device = &onPaper{e}
	return e
}

// OnPaper is a dry engine with the settings of another.
func (e *Engine) OnPaper(backend compute.Backend) *Engine {
	d := e.like(nil)
	d.Backend, d.device, d.store, d.plans = planning{backend}, &onPaper{d}, newStore(), newPlans()
	return d
}

// planning is a backend on which graphs are built and nothing runs. It goes by a name of its own, so that convolutions are
// planned as convolutions, as XLA runs them, on the pure-Go backend too, which runs them as products over patches.
type planning struct{ compute.Backend }

func (planning) String() string { return "planning" }

// Rehearse makes a dry engine do what one of n devices would do that train together.
func (e *Engine) Rehearse(n int) {
	if e.group = nil; n > 1 {
		e.group = &Group{of: n, Overlap: true}
	}
}

// alone says whether an engine goes a group's way without the group, which has no program for it to name.
func (e *Engine) alone() bool { return e.device.hollow() && (e.ahead == nil || !e.group.programs()) }

// Hollow says whether the engine's arrays have no content. A caller then need not compute what it uploads.
func (e *Engine) Hollow() bool { return e.device.hollow() }

// onPaper is the device of a dry engine.
type onPaper struct{ e *Engine }

func (d *onPaper) compile(p *program) (xla.ProgramInfo, error) {
	return xla.ProgramInfo{Scratch: p.estimate(d.e.Flash)}, nil
}

func (d *onPaper) run(p *program, _ []compute.Buffer, _ []bool) ([]compute.Buffer, error) {
	return slices.Repeat([]compute.Buffer{nothing{}}, len(p.outputs)), nil
}

func (d *onPaper) upload(any, shapes.Shape) (compute.Buffer, error)       { return nothing{}, nil }
func (d *onPaper) uploadToHost(any, shapes.Shape) (compute.Buffer, error) { return nothing{}, nil }
func (d *onPaper) toDevice(compute.Buffer) (compute.Buffer, error)        { return nothing{}, nil }
func (d *onPaper) hollow() bool                                           { return true }

func (d *onPaper) toHost(compute.Buffer) (compute.Buffer, *xla.Transfer, error) {
	return nothing{}, nil, nil
}

// nothing is the buffer of an array without content.
type nothing struct{ compute.Buffer }

func (nothing) Finalize() error      { return nil }
func (nothing) ToFlatData(any) error { return nil }

// Blank is an array on an engine whose arrays have no content.
func (e *Engine) Blank(shape shapes.Shape) *Array { return e.array(nothing{}, shape) }

// BlankParams are a network's parameters on such an engine, in the dtypes in which Load would put them.
func (e *Engine) BlankParams(specs []nn.Spec, trained func(name string) bool) *Params {
	p := NewParams(specs)
	mine := e.mine(specs, trained)
	for _, s := range specs {
		ours := trained != nil && trained(s.Name)
		a := e.keeps(s, ours)
		a = e.inForm(e.Blank(a.shape), a)
		if a.working && mine[s.Name] {
			a.master = e.Blank(shapes.Make(dtypes.Float32, s.Dims...))
		}
		p.Set(s.Name, a, ours)
	}
	return p
}

// estimate is a program's scratch space, in place of compiling it.
func (p *program) estimate(flash bool) int64 {
	out := map[*graph.Node]bool{}
	for _, n := range p.pending {
		out[n] = true
	}
	defer p.graph.Finalize()
	return scratch(p.graph, out, flash)
}

// scratch estimates the space for intermediate results that a compiler needs for a graph: the most that is alive at one
// time, when nodes run in the order in which they were made. What is taken to be in memory is said at sketch.keeps;
// everything else is computed where it is used, and so keeps alive what it is made of. With flash the square scores of
// attention are nowhere. A graph without products and convolutions, such as an update's, takes none worth counting.
func scratch(g *graph.Graph, outputs map[*graph.Node]bool, flash bool) int64 {
	if !slices.ContainsFunc(g.Nodes(), heavy) {
		return 0
	}
	k := newSketch(g, outputs)
	made := make([]map[int]bool, len(k.nodes)) // of a node that is not kept: the kept ones that it is made of
	last := make([]int, len(k.nodes))          // use of a kept one
	kept := make([]bool, len(k.nodes))
	for i, n := range k.nodes {
		if k.users[i] == 0 {
			continue
		}
		from := map[int]bool{}
		for _, in := range n.Inputs() {
			if j := k.index[in]; kept[j] {
				from[j] = true
			} else {
				maps.Copy(from, made[j])
			}
		}
		large := 0 // a small one, such as a vector for each sample, makes nothing worth keeping
		for j := range from {
			if 64*k.nodes[j].Shape().Size() >= n.Shape().Size() {
				large++
			}
		}
		if kept[i] = k.keeps(i, large); !kept[i] {
			made[i] = from
		}
		if kept[i] || outputs[n] {
			for j := range from {
				last[j] = i
			}
		}
	}
	ends := make([][]int64, len(k.nodes))
	var live, most int64
	for i, n := range k.nodes {
		square := n.Rank() == 3 && n.Shape().Dim(1) == n.Shape().Dim(2) && n.Shape().Dim(1)%64 == 0
		if kept[i] && !outputs[n] && !(flash && square) {
			size := bytesOf(n.Shape())
			live += size
			ends[max(last[i], i)] = append(ends[max(last[i], i)], size)
		}
		most = max(most, live)
		for _, size := range ends[i] {
			live -= size
		}
	}
	return most
}

// sketch is a graph as the estimate sees it.
type sketch struct {
	nodes   []*graph.Node
	index   map[*graph.Node]int
	users   []int  // of a node, outputs counted; 0 = it leads nowhere
	operand []bool // a product or convolution takes it as it is, perhaps in other dimensions
}

func newSketch(g *graph.Graph, outputs map[*graph.Node]bool) *sketch {
	k := &sketch{nodes: g.Nodes(), index: map[*graph.Node]int{}}
	k.users, k.operand = make([]int, len(k.nodes)), make([]bool, len(k.nodes))
	for i, n := range k.nodes {
		k.index[n] = i
		if outputs[n] {
			k.users[i]++
		}
	}
	for i := len(k.nodes) - 1; i >= 0; i-- {
		if k.users[i] == 0 {
			continue
		}
		n := k.nodes[i]
		passes := n.Type() == graph.NodeTypeReshape || n.Type() == graph.NodeTypeTranspose
		for _, in := range n.Inputs() {
			j := k.index[in]
			k.users[j]++
			k.operand[j] = k.operand[j] || heavy(n) || passes && k.operand[i]
		}
	}
	return k
}

func heavy(n *graph.Node) bool {
	return n.Type() == graph.NodeTypeDotGeneral || n.Type() == graph.NodeTypeConvGeneral
}

// keeps says whether a node's result is taken to be in memory: those of products, convolutions, reductions and
// concatenations, of functions too costly to be computed twice, what a product or a convolution reads, and what is
// used more than once and made of several others.
func (k *sketch) keeps(i, of int) bool {
	switch n := k.nodes[i]; n.Type() {
	case graph.NodeTypeParameter, graph.NodeTypeConstant, graph.NodeTypeReshape, graph.NodeTypeTranspose, graph.NodeTypeBroadcastInDim:
		return false
	case graph.NodeTypeDotGeneral, graph.NodeTypeConvGeneral, graph.NodeTypeConcatenate, graph.NodeTypeReduceSum, graph.NodeTypeReduceMax,
		graph.NodeTypeExp, graph.NodeTypeErf, graph.NodeTypeLogistic:
		return true
	}
	return k.operand[i] || k.users[i] > 1 && of > 1
}
