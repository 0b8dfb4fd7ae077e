package engine

import (
	"fmt"
	"strings"

	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// Call evaluates a function without gradients.
func (e *Engine) Call(f Function, bind Bind, in ...*Array) ([]*Array, error) {
	if e.calls() < nn.Network {
		return e.callTape(f, bind, in)
	}
	p, err := e.callProgram(f, bind, in)
	if err != nil {
		return nil, err
	}
	args := append([]*Array{}, in...)
	for _, name := range p.params {
		a, err := bind.find(name)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	return e.execute(p, args, nil)
}

// calls is the granularity of calls.
func (e *Engine) calls() nn.Level { return max(e.Granularity, e.Calls) }

func (e *Engine) callProgram(f Function, bind Bind, in []*Array) (*program, error) {
	key := e.key("call|"+bind.narrow(), f.Key, in)
	return e.get(key, func(g *graph.Graph, p *program) []*graph.Node {
		values := inputNodes(g, shapesOf(in))
		r := nn.NewInline(e.Compute, "", nil, bind.lookup(g, p))
		return nodes(f.Body(r, values))
	})
}

// op runs arithmetic on arrays as a program of its own, named what. It takes the first arrays, as many as taken says, and makes the
// first result in the place of the first of them.
func (e *Engine) op(what string, taken int, in []*Array, do func(in []*graph.Node) []*graph.Node) ([]*Array, error) {
	p, err := e.get(e.key(what, "", in), func(g *graph.Graph, p *program) []*graph.Node {
		if taken > 0 {
			p.aliases = map[int]int{0: 0}
		}
		return do(nodes(inputNodes(g, shapesOf(in))))
	})
	if err != nil {
		return nil, err
	}
	donate := make([]bool, len(in))
	for i := range taken {
		donate[i] = true
	}
	return e.execute(p, in, donate)
}

// one is op for a single result.
func (e *Engine) one(what string, taken int, in []*Array, do func(in []*graph.Node) *graph.Node) (*Array, error) {
	out, err := e.op(what, taken, in, func(in []*graph.Node) []*graph.Node { return []*graph.Node{do(in)} })
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (e *Engine) key(what, key string, in []*Array) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s|%s|%s", what, key, e.Compute)
	for _, a := range in {
		fmt.Fprintf(&b, "|%s", a.shape)
	}
	return b.String()
}

func nodes(values []nn.Value) []*graph.Node {
	out := make([]*graph.Node, len(values))
	for i, v := range values {
		out[i] = v.(*graph.Node)
	}
	return out
}
