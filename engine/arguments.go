package engine

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Names of groups of a program's arguments and results.
const (
	argInput    = "input"    // of a function
	argOutput   = "output"   // of a function
	argParam    = "param"    // trained parameters, or their masters
	argFrozen   = "frozen"   // parameters of a function that are not trained
	argGradient = "gradient" // by the parameters, or one by an adapted weight
	argSum      = "sum"      // of gradients over micro-batches
	argState    = "state"    // of an optimizer, in the order of Adam.stateShapes
	argHyper    = "hyper"    // see hyper
	argNumber   = "number"   // see Engine.numbers
	argBefore   = "before"   // squared norm of other gradients, to which that of these is added
	argWhole    = "whole"    // squared norm of all gradients of an update, not scaled
	argNorm     = "norm"     // the squared norm that was added up
	argWeight   = "weight"   // an adapted weight: as an argument without its adapters
	argSound    = "sound"    // a number that is finite where all gradients are
	argFlag     = "flag"     // 1 for arrays that this device owns
)

// layout is the order of a program's arguments or results: groups, one behind the other.
type layout struct {
	names []string
	sizes []int
}

func (l *layout) add(name string, n int) {
	l.names, l.sizes = append(l.names, name), append(l.sizes, n)
}

// at is where a group begins, and how many it has.
func (l *layout) at(name string) (first, n int) {
	for i, have := range l.names {
		if have == name {
			return first, l.sizes[i]
		}
		first += l.sizes[i]
	}
	panic(fmt.Errorf("a program has no group %q", name))
}

// take makes the parameters of a graph for a group of arguments.
func (p *program) take(g *graph.Graph, name string, of ...shapes.Shape) []*graph.Node {
	out := make([]*graph.Node, len(of))
	for i, s := range of {
		out[i] = graph.Parameter(g, fmt.Sprintf("#%s%d", name, i), s)
	}
	p.takes.add(name, len(of))
	return out
}

// give adds a group of results.
func (p *program) give(name string, nodes ...*graph.Node) {
	p.gives.add(name, len(nodes))
	p.given = append(p.given, nodes...)
}

// replace lets the results of some groups take the place of the arguments of the same names, which are given up for them.
func (p *program) replace(names ...string) {
	p.aliases = map[int]int{}
	for _, name := range names {
		in, n := p.takes.at(name)
		out, _ := p.gives.at(name)
		for i := range n {
			p.aliases[in+i] = out + i
		}
	}
}

// groups are arrays by the names of their groups.
type groups map[string][]*Array

// arrange puts groups of arguments in a program's order. Those that results replace, and those of the groups taken, are gone
// once the program has run.
func (p *program) arrange(in groups, taken ...string) (arrays []*Array, donate []bool, err error) {
	for i, name := range p.takes.names {
		if len(in[name]) != p.takes.sizes[i] {
			return nil, nil, fmt.Errorf("%s takes %d arguments %q, it is given %d", p.name, p.takes.sizes[i], name, len(in[name]))
		}
		arrays = append(arrays, in[name]...)
		donate = append(donate, slices.Repeat([]bool{slices.Contains(taken, name)}, len(in[name]))...)
	}
	for i := range p.aliases {
		donate[i] = true
	}
	return arrays, donate, nil
}

// named are a program's results by group.
func (p *program) named(results []*Array) groups {
	out := groups{}
	for i, name := range p.gives.names {
		n := p.gives.sizes[i]
		out[name], results = results[:n:n], results[n:]
	}
	return out
}

// apply runs a program on groups of arguments; see arrange.
func (e *Engine) apply(p *program, in groups, taken ...string) (groups, error) {
	arrays, donate, err := p.arrange(in, taken...)
	if err != nil {
		return nil, err
	}
	out, err := e.execute(p, arrays, donate)
	if err != nil {
		return nil, err
	}
	return p.named(out), nil
}
