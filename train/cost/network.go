// Package cost estimates what a recipe's phases take before anything is trained: network calls, floating-point
// operations, device memory and sizes on disk, from the architecture alone. Weights need not be there.
package cost

import (
	"fmt"
	"math"

	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Network is what one forward pass of a network takes.
type Network struct {
	Parameters int64   // elements, adapters not included
	Adapters   int64   // elements of adapters
	FLOPs      float64 // per sample: two for every multiply-add of the matrix products and convolutions, nothing else
	Kept       int64   // bytes per sample that the backward pass needs at the granularity: see Measure
	Widest     int64   // bytes per sample of one block's own intermediate results, the largest block's
	BlockSize  int64   // elements of the largest block's parameters
}

// Measure builds a network on a graph that is thrown away and counts. The batch is the first axis of the first input;
// FLOPs and bytes are divided by it.
//
// Kept counts, for a network that is one block, the outputs of its matrix products, convolutions, concatenations and
// exponentials, which a backward pass reads; element-wise operations between them are fused or computed again. At a
// finer granularity it counts the blocks' inputs, and the same outputs of the largest single block are Widest.
func Measure(b compute.Backend, block nn.Block, granularity nn.Level, compute dtypes.DType, in ...shapes.Shape) (n Network, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = Network{}, fmt.Errorf("measuring %s: %v", block.Kind, r)
		}
	}()
	g := graph.NewGraph(b, "cost")
	defer g.Finalize()
	m := &meter{graph: g, granularity: granularity, compute: compute, params: map[string]*graph.Node{}, inputs: map[nn.Value]bool{}}
	values := make([]nn.Value, len(in))
	for i, shape := range in {
		values[i] = graph.Parameter(g, fmt.Sprintf("#%d", i), shape)
	}
	m.Run(block, values...)
	batch := float64(in[0].Dimensions[0])
	for _, node := range g.Nodes() {
		m.total.FLOPs += flops(node)
	}
	m.total.FLOPs /= batch
	if len(m.inputs) > 0 {
		m.total.Kept = 0
		for v := range m.inputs {
			m.total.Kept += bytesOf(v.Shape())
		}
	} else {
		m.total.Kept, m.total.Widest = m.total.Widest, 0
	}
	m.total.Kept = int64(float64(m.total.Kept) / batch)
	m.total.Widest = int64(float64(m.total.Widest) / batch)
	return m.total, nil
}

// meter is a Runner that builds blocks inline and counts those that the engine would make programs of.
type meter struct {
	graph       *graph.Graph
	granularity nn.Level
	compute     dtypes.DType
	prefix      string
	lora        *nn.LoRA
	inside      bool // of a block that is one program
	total       Network
	params      map[string]*graph.Node
	inputs      map[nn.Value]bool // of the programs; empty when the network is one program
	block       int64             // parameters first used in the current program
}

// Run implements nn.Runner.
func (m *meter) Run(b nn.Block, in ...nn.Value) []nn.Value {
	prefix, lora, inside := m.prefix, m.lora, m.inside
	defer func() { m.prefix, m.lora, m.inside = prefix, lora, inside }()
	if b.Compose != nil && (b.Level > m.granularity || inside) {
		m.enter(b)
		return b.Compose(m, in)
	}
	if inside {
		return m.build(b, in)
	}
	first := len(m.graph.Nodes())
	m.block = 0
	if m.granularity < nn.Network {
		for _, v := range in {
			m.inputs[v] = true
		}
	}
	m.inside = true
	var out []nn.Value
	if b.Compose != nil {
		m.enter(b)
		out = b.Compose(m, in)
	} else {
		out = m.build(b, in)
	}
	var kept int64
	for _, node := range m.graph.Nodes()[first:] {
		switch node.Type() {
		case graph.NodeTypeDotGeneral, graph.NodeTypeConvGeneral, graph.NodeTypeConcatenate, graph.NodeTypeExp:
			kept += bytesOf(node.Shape())
		}
	}
	m.total.Widest = max(m.total.Widest, kept)
	m.total.BlockSize = max(m.total.BlockSize, m.block)
	return out
}

func (m *meter) enter(b nn.Block) {
	m.prefix = nn.Join(m.prefix, b.Name)
	if b.LoRA != nil {
		m.lora = b.LoRA
	}
	if b.Plain {
		m.lora = nil
	}
}

func (m *meter) build(b nn.Block, in []nn.Value) []nn.Value {
	return nn.NewInline(m.compute, m.prefix, m.lora, m.lookup).Run(b, in...)
}

func (m *meter) lookup(s nn.Spec) *graph.Node {
	if n, ok := m.params[s.Name]; ok {
		return n
	}
	if engine.IsLoRA(s.Name) {
		m.total.Adapters += int64(s.Size())
	} else {
		m.total.Parameters += int64(s.Size())
	}
	m.block += int64(s.Size())
	m.params[s.Name] = graph.Parameter(m.graph, s.Name, shapes.Make(dtypes.Float32, s.Dims...))
	return m.params[s.Name]
}

// flops of one node. A product [B, M, K]·[B, K, N] does 2·B·M·N·K, where K² = |lhs|·|rhs| / (|out|·B); the number of
// batch axes follows from the ranks, with one contracted axis as everywhere in this project's networks.
func flops(n *graph.Node) float64 {
	out := float64(n.Shape().Size())
	switch n.Type() {
	case graph.NodeTypeConvGeneral:
		kernel := n.Inputs()[1].Shape() // [height, width, in, out]
		return 2 * out * float64(kernel.Size()) / float64(kernel.Dim(-1))
	case graph.NodeTypeDotGeneral:
		l, r := n.Inputs()[0].Shape(), n.Inputs()[1].Shape()
		batch := 1.0
		for i := range l.Rank() + r.Rank() - n.Shape().Rank() - 2 {
			batch *= float64(n.Shape().Dim(i))
		}
		return 2 * out * math.Round(math.Sqrt(float64(l.Size())*float64(r.Size())/(out*batch)))
	}
	return 0
}

func bytesOf(s shapes.Shape) int64 { return int64(s.Size()) * int64(s.DType.Size()) }
