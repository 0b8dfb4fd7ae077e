package engine

import (
	"fmt"
	"slices"

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

// form is what an update's program depends on besides its optimizer.
type form struct {
	params, grads []shapes.Shape
	norm          string // before, whole, or "" = there is no such argument
	lora          *nn.LoRA
	weight        shapes.Shape // of the adapted weight without its adapters
}

// of is the form of updates of parameters of some shapes by their gradients.
func formOf(params []shapes.Shape, norm string) form {
	return form{params: params, grads: params, norm: norm}
}

func (f form) String() string {
	s := fmt.Sprintf("%v%v%s", f.params, f.grads, f.norm)
	if f.lora != nil {
		s += fmt.Sprintf("lora(%d,%g)%v", f.lora.Rank, f.lora.Scale, f.weight)
	}
	return s
}

// update takes one optimizer step for a block, which is a program of its own: blocks of the same shapes share it. norm is what
// the argument called kind holds: before, and the squared norm of these gradients, scaled, added to it is returned; or whole,
// and nothing is. Where norm is not finite nothing changes.
func (e *Engine) update(o *Optimizer, b *block, hyper *Array, kind string, norm *Array) (norm2 *Array, err error) {
	f := form{params: shapesOf(b.params), grads: shapesOf(b.grads), norm: kind}
	in := groups{argParam: b.params, argGradient: b.grads, argState: b.state, argHyper: {hyper}}
	if norm != nil {
		in[kind] = []*Array{norm}
	}
	if in[argNumber], err = e.numbers(o, b.indices); err != nil {
		return nil, err
	}
	if b.adapter != nil {
		in[argWeight] = []*Array{b.adapter.base}
		f.lora, f.weight = &b.adapter.lora, b.adapter.base.shape
	}
	p, err := e.updateProgram(o, f)
	if err != nil {
		return nil, err
	}
	out, err := e.applyUpdate(p, in)
	if err != nil {
		return nil, err
	}
	b.params, b.state = out[argParam], out[argState]
	if b.adapter != nil {
		b.weight = out[argWeight][0]
	}
	if kind == argWhole {
		return nil, nil
	}
	return out[argNorm][0], nil
}

// updateProgram is update's.
func (e *Engine) updateProgram(o *Optimizer, f form) (*program, error) {
	settings := o.Adam
	return e.declare(fmt.Sprintf("update|%s|%s", settings, f), func(g *graph.Graph, p *program) []*graph.Node {
		masters, grads := p.take(g, argParam, f.params...), p.take(g, argGradient, f.grads...)
		if f.lora != nil {
			down, up := nn.AdapterGradients(grads[0], masters[0], masters[1], *f.lora)
			grads = []*graph.Node{down, up}
		}
		fresh := settings.step(g, p, masters, grads, f.norm)
		if f.lora != nil {
			base := p.take(g, argWeight, f.weight)[0]
			p.give(argWeight, nn.Adapted(base, fresh[0], fresh[1], *f.lora))
		}
		return p.given
	})
}

// Places in the list of numbers that change from step to step.
const (
	hyperRate      = iota // lr/(1-β1ᵗ)
	hyperSecond           // 1/sqrt(1-β2ᵗ)
	hyperKeep             // 1-lr·decay
	hyperScale            // of the gradient
	hyperFirstDraw        // two numbers for the rounding of moments
	hyperSecondDraw
	hyperCount
)

// hyperShape is that of the list.
func hyperShape() shapes.Shape { return shapes.Make(dtypes.Float32, hyperCount) }

// number is one of a list of numbers.
func number(list *graph.Node, i int) *graph.Node {
	return graph.Reshape(graph.SliceAxis(list, 0, graph.AxisRange(i, i+1)))
}

// step adds one optimizer step to a program, for parameters in the order of their gradients. Of arguments it adds the state, the
// list of hyper-parameters, the norm that it is told of, see form, and numbers where moments are rounded; of results the squared
// norm of the gradients, unless it is told the whole, the new parameters, which it returns, and the new state, in place of the
// old. Where the norm is not finite nothing changes.
func (a Adam) step(g *graph.Graph, p *program, old, grads []*graph.Node, norm string) (fresh []*graph.Node) {
	state := p.take(g, argState, a.stateShapes(shapesOfNodes(old))...)
	hyper := p.take(g, argHyper, hyperShape())[0]
	var told, numbered *graph.Node
	if norm != "" {
		told = p.take(g, norm, shapes.Make(dtypes.Float32))[0]
	}
	if a.rounds() {
		numbered = p.take(g, argNumber, shapes.Make(dtypes.Int32, len(old)))[0]
	} else {
		p.take(g, argNumber)
	}
	grads, ok, norm2 := a.scaled(g, grads, number(hyper, hyperScale), norm, told)
	if norm2 != nil {
		p.give(argNorm, norm2)
	}
	fresh, state = a.move(old, grads, state, hyper, numbered, ok)
	p.give(argParam, fresh...)
	p.give(argState, state...)
	p.replace(argParam, argState)
	return fresh
}

// scaled are gradients times scale, clipped to ClipNorm by their squared norm, which is returned unless it was told. ok says
// whether it is finite.
func (a Adam) scaled(g *graph.Graph, grads []*graph.Node, scale *graph.Node, norm string, told *graph.Node) (out []*graph.Node, ok, norm2 *graph.Node) {
	clip := func(norm *graph.Node) *graph.Node {
		return graph.MinScalar(graph.Div(graph.Scalar(g, dtypes.Float32, a.ClipNorm), graph.AddScalar(norm, 1e-12)), 1)
	}
	times := func(scale *graph.Node) {
		for i, grad := range grads {
			grads[i] = mulScalar(graph.ConvertDType(grad, dtypes.Float32), scale)
		}
	}
	grads = slices.Clone(grads)
	if norm == argWhole {
		if a.ClipNorm != 0 {
			scale = graph.Mul(scale, clip(graph.Mul(graph.Sqrt(told), scale)))
		}
		times(scale)
		return grads, graph.IsFinite(told), nil
	}
	times(scale)
	if norm2 = told; norm2 == nil {
		norm2 = graph.Zeros(g, shapes.Make(dtypes.Float32))
	}
	for _, grad := range grads {
		norm2 = graph.Add(norm2, graph.ReduceAllSum(graph.Square(grad)))
	}
	if a.ClipNorm != 0 {
		times(clip(graph.Sqrt(norm2)))
	}
	return grads, graph.IsFinite(norm2), norm2
}

// move is PyTorch's update rule: new parameters and state, which are the old ones where ok is false. numbers are those of the
// parameters where moments are rounded.
func (a Adam) move(params, grads, state []*graph.Node, hyper, numbers, ok *graph.Node) (fresh, newState []*graph.Node) {
	n := len(params)
	keep := func(new, old *graph.Node) *graph.Node {
		return graph.Where(graph.BroadcastToDims(ok, old.Shape().Dimensions...), new, old)
	}
	var ms, vs, es []*graph.Node
	var oldM []*graph.Node
	if a.Beta1 != 0 {
		oldM, state = state[:n], state[n:]
	}
	oldV, oldE := state[:n], state[n:]
	wide := func(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtypes.Float32) }
	for i, p := range params {
		grad := grads[i]
		kept := func(x, _ *graph.Node) *graph.Node { return x }
		var forM, forV *graph.Node
		if a.rounds() {
			kept = rounded
			draw := [2]*graph.Node{number(hyper, hyperFirstDraw), number(hyper, hyperSecondDraw)}
			forM, forV = halves(randomBits(p.Shape(), draw, number(numbers, i)))
		}
		m := grad
		if a.Beta1 != 0 {
			m = graph.Add(graph.MulScalar(wide(oldM[i]), a.Beta1), graph.MulScalar(grad, 1-a.Beta1))
			ms = append(ms, keep(kept(m, forM), oldM[i]))
		}
		v := graph.Add(graph.MulScalar(wide(oldV[i]), a.Beta2), graph.MulScalar(graph.Square(grad), 1-a.Beta2))
		vs = append(vs, keep(kept(v, forV), oldV[i]))
		step := graph.Div(mulScalar(m, number(hyper, hyperRate)), graph.AddScalar(mulScalar(graph.Sqrt(v), number(hyper, hyperSecond)), a.Eps))
		updated := p
		if a.WeightDecay != 0 {
			updated = mulScalar(p, number(hyper, hyperKeep))
		}
		updated = keep(graph.Sub(updated, step), p)
		fresh = append(fresh, updated)
		if a.EMA != 0 {
			average := graph.Add(graph.MulScalar(oldE[i], a.EMA), graph.MulScalar(updated, 1-a.EMA))
			es = append(es, keep(average, oldE[i]))
		}
	}
	return fresh, slices.Concat(ms, vs, es)
}

func mulScalar(x, scalar *graph.Node) *graph.Node {
	return graph.Mul(x, graph.BroadcastToDims(scalar, x.Shape().Dimensions...))
}
