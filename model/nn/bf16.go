package nn

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// GoMLX computes the gradients of a product of bf16 operands in f32: it converts operands and cotangent, which keeps a
// GPU's tensor cores from half of the work of training. Here the two products of the gradient take bf16 operands, too,
// accumulate in f32 and round once, as PyTorch's autocast does. Products of other dtypes are left to GoMLX.
// (The gradients of bf16 convolutions are convolutions of bf16 operands already.)
func init() {
	original := graph.VJPRegistration[graph.NodeTypeDotGeneral]
	graph.VJPRegistration[graph.NodeTypeDotGeneral] = func(node *graph.Node, v []*graph.Node, shape shapes.Shape) []*graph.Node {
		in := node.Inputs()
		if in[0].DType() != dtypes.BFloat16 || in[1].DType() != dtypes.BFloat16 {
			return original(node, v, shape)
		}
		p := productOf(node)
		if len(p.lhs.cross) == 0 || len(p.rhs.cross) == 0 {
			return original(node, v, shape)
		}
		return p.gradients(graph.ConvertDType(v[0], dtypes.BFloat16))
	}
}

// operand is one side of a product, its axes by their part in it. The product's axes are the batch axes, the left
// side's cross axes and the right side's.
type operand struct {
	node                   *graph.Node
	contract, batch, cross []int
}

type product struct{ lhs, rhs operand }

// productOf reads the axes of a product. GoMLX keeps them to itself; the fields' names are those of the pinned version
// and are tested.
func productOf(node *graph.Node) product {
	fields := reflect.ValueOf(node).Elem().FieldByName("inputs").Elem().Elem()
	side := func(n *graph.Node, name string) operand {
		axes := func(kind string) []int {
			f := fields.FieldByName(name + kind)
			if !f.IsValid() {
				panic(fmt.Errorf("a product of GoMLX has no field %s%s", name, kind))
			}
			out := make([]int, f.Len())
			for i := range out {
				out[i] = int(f.Index(i).Int())
			}
			return out
		}
		o := operand{node: n, contract: axes("ContractingAxes"), batch: axes("BatchAxes")}
		for axis := range n.Rank() {
			if !slices.Contains(o.contract, axis) && !slices.Contains(o.batch, axis) {
				o.cross = append(o.cross, axis)
			}
		}
		return o
	}
	in := node.Inputs()
	return product{side(in[0], "lhs"), side(in[1], "rhs")}
}

// gradients are the cotangents of both sides, given the product's.
func (p product) gradients(v *graph.Node) []*graph.Node {
	batches, left := len(p.lhs.batch), len(p.lhs.cross)
	ofLeft, ofRight := sequence(batches, left), sequence(batches+left, len(p.rhs.cross))
	return []*graph.Node{p.lhs.gradient(v, ofRight, p.rhs), p.rhs.gradient(v, ofLeft, p.lhs)}
}

// gradient contracts the cotangent's axes that belong to the other side with the other side's own.
func (o operand) gradient(v *graph.Node, others []int, other operand) *graph.Node {
	y := graph.DotGeneral(v, others, sequence(0, len(o.batch)), other.node, other.cross, other.batch)
	// y has the batch axes, this side's cross axes and the contracted axes, those in the other side's order.
	kept := slices.Clone(other.contract)
	slices.Sort(kept)
	at := make([]int, o.node.Rank())
	for i, axis := range o.batch {
		at[axis] = i
	}
	for i, axis := range o.cross {
		at[axis] = len(o.batch) + i
	}
	for i, axis := range o.contract {
		at[axis] = len(o.batch) + len(o.cross) + slices.Index(kept, other.contract[i])
	}
	return graph.TransposeAllAxes(y, at...)
}

func sequence(first, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = first + i
	}
	return out
}
