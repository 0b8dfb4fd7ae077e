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
}

// Measure builds a network on a graph that is thrown away and counts. The batch is the first axis of the first input;
// FLOPs are divided by it.
func Measure(b compute.Backend, block nn.Block, compute dtypes.DType, in ...shapes.Shape) (n Network, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = Network{}, fmt.Errorf("measuring %s: %v", block.Kind, r)
		}
	}()
	g := graph.NewGraph(b, "cost")
	defer g.Finalize()
	seen := map[string]*graph.Node{}
	values := make([]nn.Value, len(in))
	for i, shape := range in {
		values[i] = graph.Parameter(g, fmt.Sprintf("#%d", i), shape)
	}
	nn.NewInline(compute, "", nil, func(s nn.Spec) *graph.Node {
		if known, ok := seen[s.Name]; ok {
			return known
		}
		if engine.IsLoRA(s.Name) {
			n.Adapters += int64(s.Size())
		} else {
			n.Parameters += int64(s.Size())
		}
		seen[s.Name] = graph.Parameter(g, s.Name, shapes.Make(dtypes.Float32, s.Dims...))
		return seen[s.Name]
	}).Run(block, values...)
	for _, node := range g.Nodes() {
		n.FLOPs += flops(node)
	}
	n.FLOPs /= float64(in[0].Dimensions[0])
	return n, nil
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
