package engine

import (
	"fmt"
	"strings"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// block is what one update changes of a network: some of an optimizer's parameters, or an adapted weight by its factors.
type block struct {
	indices []int    // of the parameters in the optimizer
	params  []*Array // their masters; the update replaces them
	grads   []*Array // by the parameters, or one by the adapted weight; the update takes them
	state   []*Array // in the order of Optimizer.ordered, of each list all parameters'; the update replaces it
	adapter *adapter // whose factors, down and up, the parameters are; nil = they are no factors
	weight  *Array   // the adapted weight that the update made
}

// update takes one optimizer step for a block, which is a program of its own: blocks of the same shapes share it. It returns
// the squared norm of the gradients, scaled, added to before, if that is not nil. Where the sum is not finite nothing
// changes.
func (e *Engine) update(o *Optimizer, b *block, hyper, before *Array) (norm2 *Array, err error) {
	numbers, err := e.numbers(o, b.indices)
	if err != nil {
		return nil, err
	}
	var in arguments
	in.add("param", true, b.params...)
	in.add("gradient", true, b.grads...)
	in.add("state", true, b.state...)
	in.add("hyper", false, hyper)
	if before != nil {
		in.add("before", false, before)
	}
	in.add("number", false, numbers...)
	var lora *nn.LoRA
	if b.adapter != nil {
		in.add("base", false, b.adapter.base)
		lora = &b.adapter.lora
	}
	p, err := e.updateProgram(o, in.layout, lora)
	if err != nil {
		return nil, err
	}
	out, err := e.executeUpdate(p, in.arrays, in.taken, b.grads...)
	if err != nil {
		return nil, err
	}
	norm2, out = out[0], out[1:]
	b.params, out = out[:len(b.params):len(b.params)], out[len(b.params):]
	b.state, out = out[:len(b.state):len(b.state)], out[len(b.state):]
	if len(out) > 0 {
		b.weight = out[0]
	}
	return norm2, nil
}

// updateProgram is update's: its results are the squared norm, parameters, state and, with adapters, the adapted weight.
func (e *Engine) updateProgram(o *Optimizer, of layout, lora *nn.LoRA) (*program, error) {
	settings := *o
	key := fmt.Sprintf("update|%s|%s", o.settings(), of)
	if lora != nil {
		key += fmt.Sprintf("|lora(%d,%g)", lora.Rank, lora.Scale)
	}
	return e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		in := of.nodes(g)
		grads := in["gradient"]
		if lora != nil {
			down, up := nn.AdapterGradients(grads[0], in["param"][0], in["param"][1], *lora)
			grads = []*graph.Node{down, up}
		}
		p.aliases = map[int]int{}
		for i := range in["param"] {
			p.aliases[of.at("param")+i] = 1 + i
		}
		for i := range in["state"] {
			p.aliases[of.at("state")+i] = 1 + len(in["param"]) + i
		}
		norm2, params, state := settings.updateNodes(in["param"], grads, in["state"], in["hyper"][0], first(in["before"]), first(in["number"]))
		out := append(append([]*graph.Node{norm2}, params...), state...)
		if lora != nil {
			out = append(out, nn.Adapted(in["base"][0], params[0], params[1], *lora))
		}
		return out
	})
}

// layoutOf is the layout of an update, in a walk back or behind one, of parameters of some shapes.
func (o *Optimizer) layoutOf(params []shapes.Shape) (l layout) {
	l.add("param", params...)
	l.add("gradient", params...)
	l.add("state", o.stateShapes(params)...)
	l.add("hyper", shapes.Make(dtypes.Float32, hypers))
	l.add("before", shapes.Make(dtypes.Float32))
	if o.rounds() {
		l.add("number", shapes.Make(dtypes.Int32, len(params)))
	}
	return l
}

// layout is the order of a program's arguments: groups of one name, one behind the other.
type layout struct {
	names  []string
	shapes [][]shapes.Shape
}

func (l *layout) add(name string, of ...shapes.Shape) {
	if len(of) > 0 {
		l.names, l.shapes = append(l.names, name), append(l.shapes, of)
	}
}

// at is the place of a group's first argument.
func (l layout) at(name string) (place int) {
	for i, n := range l.names {
		if n == name {
			return place
		}
		place += len(l.shapes[i])
	}
	panic(fmt.Errorf("a program has no arguments %q", name))
}

// nodes makes a graph's parameters.
func (l layout) nodes(g *graph.Graph) map[string][]*graph.Node {
	out := map[string][]*graph.Node{}
	for i, name := range l.names {
		for k, s := range l.shapes[i] {
			out[name] = append(out[name], graph.Parameter(g, fmt.Sprintf("%s%d", name, k), s))
		}
	}
	return out
}

// String tells layouts apart.
func (l layout) String() string {
	var b strings.Builder
	for i, name := range l.names {
		fmt.Fprintf(&b, "%s%v", name, l.shapes[i])
	}
	return b.String()
}

// arguments are arrays in a layout; those that are taken are donated to the program.
type arguments struct {
	layout
	arrays []*Array
	taken  []bool
}

func (a *arguments) add(name string, take bool, arrays ...*Array) {
	a.layout.add(name, shapesOf(arrays)...)
	for range arrays {
		a.taken = append(a.taken, take)
	}
	a.arrays = append(a.arrays, arrays...)
}

// first is the only node of a group, nil where there is none.
func first(nodes []*graph.Node) *graph.Node {
	if len(nodes) == 0 {
		return nil
	}
	return nodes[0]
}
