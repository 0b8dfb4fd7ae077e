package engine

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Arrays of this many bytes are sent from where they lie. XLA copies those that share a transfer into one buffer and back: of SDXL's
// gradients on two H200, 270 µs for the 139 MB of a wide block, as much as 8 MB and the start of a transfer are worth.
const ownTransfer = 8 << 20

// sum adds gradients up over the devices of the group, which it takes. Alone it passes them on.
func (e *Engine) sum(arrays []*Array) ([]*Array, error) {
	if e.group == nil || len(arrays) == 0 {
		return arrays, nil
	}
	return e.collective("sum", e.group.Reduce, arrays)
}

// total is sum for one number, in f32.
func (e *Engine) total(a *Array) (*Array, error) {
	if e.group == nil {
		return a, nil
	}
	out, err := e.collective("sum", dtypes.Float32, []*Array{a})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// mean is sum for results, in f32, over the number of devices.
func (e *Engine) mean(arrays []*Array) ([]*Array, error) {
	if e.group == nil || len(arrays) == 0 {
		return arrays, nil
	}
	return e.collective("mean", dtypes.Float32, arrays)
}

func (e *Engine) collective(what string, in dtypes.DType, arrays []*Array) ([]*Array, error) {
	if e.alone() { // the other devices would add nothing to what is there
		return arrays, nil
	}
	if !e.group.programs() {
		return e.addOverHosts(what, in, arrays)
	}
	p, err := e.reduction(what, in, shapesOf(arrays))
	if err != nil {
		return nil, err
	}
	return e.join(p, arrays, slices.Repeat([]bool{true}, len(arrays)))
}

// reduction is the program that adds arrays up over the devices, in a dtype.
func (e *Engine) reduction(what string, in dtypes.DType, of []shapes.Shape) (*program, error) {
	n := e.replicas()
	return e.declareFor(e.group, fmt.Sprintf("%s|%d|%s|%v", what, n, in, of), func(g *graph.Graph, p *program) []*graph.Node {
		p.aliases = map[int]int{}
		for i := range of {
			p.aliases[i] = i
		}
		out := allReduceIn(in, nodes(inputNodes(g, of)))
		for i := range out {
			if what == "mean" {
				out[i] = graph.MulScalar(out[i], 1/float64(n))
			}
		}
		return out
	})
}

// allReduceIn is allReduce in a dtype.
func allReduceIn(in dtypes.DType, of []*graph.Node) []*graph.Node {
	out := make([]*graph.Node, len(of))
	for i, x := range of {
		out[i] = graph.ConvertDType(x, in)
	}
	out = allReduce(out)
	for i, x := range of {
		out[i] = graph.ConvertDType(out[i], x.DType())
	}
	return out
}

// allReduce adds nodes up over the devices: large ones each for itself, the others together.
func allReduce(of []*graph.Node) []*graph.Node {
	over := of[0].Graph().Distributed()
	out := make([]*graph.Node, len(of))
	var small []*graph.Node
	var at []int
	for i, x := range of {
		if bytesOf(x.Shape()) >= ownTransfer {
			out[i] = over.AllReduceOne(x, compute.ReduceOpSum)
		} else {
			small, at = append(small, x), append(at, i)
		}
	}
	if len(small) > 0 {
		for k, x := range over.AllReduce(small, compute.ReduceOpSum) {
			out[at[k]] = x
		}
	}
	return out
}
