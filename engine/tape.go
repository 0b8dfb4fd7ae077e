package engine

import (
	"fmt"
	"strings"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// tapeValue is an array on its way through a function, freed when nobody will ask for it again.
type tapeValue struct {
	array *Array
	owned bool // made here, not given by the caller
	uses  int  // forward uses to come
	held  int  // tape entries that will need it in the backward walk
	needs bool // a gradient flows back through it
	grad  *Array
}

func (v *tapeValue) Shape() shapes.Shape { return v.array.shape }

func (v *tapeValue) release() {
	if v.owned && v.uses == 0 && v.held == 0 {
		v.array.Free()
	}
}

// entry is one block evaluation to be walked back through: it keeps the block's inputs only.
type entry struct {
	call    blockCall
	in, out []*tapeValue
	params  []string // relative names
	trained []string // relative names of trained parameters
}

// tape runs blocks and remembers those that a gradient flows through.
type tape struct {
	e       *Engine
	bind    Bind
	level   nn.Level
	network string // trained network, "" = no gradients
	o       *Optimizer
	plan    *plan
	values  int
	entries []entry
}

type tapeRunner struct {
	*tape
	prefix string
	lora   *nn.LoRA
}

// isTrained says whether a scope name is a parameter that the optimizer changes.
func (t *tape) isTrained(scope string) bool {
	network, rest := split(scope)
	return t.o != nil && network == t.network && t.o.params.trained[rest]
}

// Run implements nn.Runner.
func (r *tapeRunner) Run(b nn.Block, in ...nn.Value) []nn.Value {
	prefix, lora, apart := inner(b, r.prefix, r.lora, r.level)
	if apart {
		return b.Compose(&tapeRunner{tape: r.tape, prefix: prefix, lora: lora}, in)
	}
	args, arrays, shapesIn := make([]*tapeValue, len(in)), make([]*Array, len(in)), make([]shapes.Shape, len(in))
	needs := false
	for i, v := range in {
		args[i] = v.(*tapeValue)
		arrays[i] = args[i].array
		shapesIn[i] = arrays[i].shape
		needs = needs || args[i].needs
	}
	call := r.e.newCall(b, r.bind, prefix, lora, shapesIn)
	p, err := r.e.forward(call, r.bind, shapesIn)
	if err != nil {
		panic(err)
	}
	rec := entry{call: call, in: args, params: p.params}
	for _, name := range p.params {
		a, err := r.bind.find(nn.Join(prefix, name))
		if err != nil {
			panic(err)
		}
		arrays = append(arrays, a)
		if r.isTrained(nn.Join(prefix, name)) {
			rec.trained = append(rec.trained, name)
		}
	}
	needs = needs || len(rec.trained) > 0
	results, err := r.e.execute(p, arrays, nil)
	if err != nil {
		panic(fmt.Errorf("running %s of %s: %w", b.Kind, prefix, err))
	}
	out := make([]nn.Value, len(results))
	for i, a := range results {
		v := &tapeValue{array: a, owned: true, uses: r.plan.uses[r.values], needs: needs}
		r.values++
		rec.out = append(rec.out, v)
		out[i] = v
	}
	if needs {
		r.entries = append(r.entries, rec)
		for _, v := range args {
			v.held++
		}
	}
	for _, v := range args {
		v.uses--
		v.release()
	}
	for _, v := range rec.out {
		v.release() // a result nobody uses
	}
	return out
}

// valuesOf are a caller's arrays on their way into a function.
func valuesOf(in []*Array) []*tapeValue {
	out := make([]*tapeValue, len(in))
	for i, a := range in {
		out[i] = &tapeValue{array: a}
	}
	return out
}

// walk runs a function forwards.
func (t *tape) walk(f Function, in []*tapeValue) (outputs []*tapeValue, err error) {
	values := make([]nn.Value, len(in))
	for i, v := range in {
		v.uses += t.plan.uses[i]
		values[i] = v
	}
	t.values = len(in)
	err = guard(func() error {
		for _, v := range f.Body(&tapeRunner{tape: t}, values) {
			outputs = append(outputs, v.(*tapeValue))
		}
		return nil
	})
	return outputs, err
}

func (e *Engine) callTape(f Function, bind Bind, in []*Array) ([]*Array, error) {
	t := &tape{e: e, bind: bind, level: e.calls()}
	if err := e.planFor(t, f, passing{}, in); err != nil {
		return nil, err
	}
	outputs, err := t.walk(f, valuesOf(in))
	if err != nil {
		return nil, err
	}
	return arraysOf(outputs), nil
}

func arraysOf(values []*tapeValue) []*Array {
	out := make([]*Array, len(values))
	for i, v := range values {
		out[i] = v.array
	}
	return out
}

// backward is what the backward program of a block depends on.
type backward struct {
	call    blockCall
	in, out []shapes.Shape
	needsIn []bool // which inputs want a cotangent
	hasOut  []bool // which outputs come with one
	trained []string
	owed    []shapes.Shape // gradients of other blocks, which the program adds up over the devices; nil = none
}

// backward is the program of one block's backward: inputs, cotangents of outputs, parameters and gradients of other blocks →
// cotangents of the inputs that need one, gradients of the trained parameters, sums of the other blocks' over the devices.
func (e *Engine) backward(b backward, bind Bind) (*program, error) {
	key := fmt.Sprintf("backward|%s|%v|%v|%s", b.call.key, b.needsIn, b.hasOut, strings.Join(b.trained, ","))
	var together *Group
	if len(b.owed) > 0 {
		together = e.group
		key += fmt.Sprintf("|sum|%d|%s|%v", e.replicas(), together.Reduce, b.owed)
	}
	return e.declareFor(together, key, func(g *graph.Graph, p *program) []*graph.Node {
		inputs := inputNodes(g, b.in)
		var cots []*graph.Node
		for i, has := range b.hasOut {
			if has {
				cots = append(cots, graph.Parameter(g, fmt.Sprintf("cotangent%d", i), b.out[i]))
			} else {
				cots = append(cots, nil)
			}
		}
		outs, params := e.nodesOf(b.call, bind, g, p, inputs)
		sum := graph.ScalarZero(g, dtypes.Float32)
		for i, cot := range cots {
			if cot != nil {
				product := graph.Mul(graph.ConvertDType(outs[i], dtypes.Float32), graph.StopGradient(graph.ConvertDType(cot, dtypes.Float32)))
				sum = graph.Add(sum, graph.ReduceAllSum(product))
			}
		}
		var by []*graph.Node
		for i, needs := range b.needsIn {
			if needs {
				by = append(by, inputs[i].(*graph.Node))
			}
		}
		for _, name := range b.trained {
			by = append(by, params[name])
		}
		results := graph.Gradient(sum, by...)
		if len(b.owed) == 0 {
			return results
		}
		p.aliases = map[int]int{}
		owed := make([]*graph.Node, len(b.owed))
		for i, shape := range b.owed {
			p.aliases[g.NumParameters()] = len(results) + i
			owed[i] = graph.Parameter(g, fmt.Sprintf("owed%d", i), shape)
		}
		return append(results, allReduceIn(together.Reduce, owed)...)
	})
}
