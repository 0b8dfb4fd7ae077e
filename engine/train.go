package engine

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Step is one micro-batch's part of an optimizer step.
type Step struct {
	LR    float64
	Micro int // index of this micro-batch in the step, from 0
	Of    int // micro-batches in a step; 0 or 1 = no accumulation
}

// last says whether the step's update comes with this micro-batch.
func (s Step) last() bool { return s.Micro+1 >= s.Of }

// Train evaluates f, whose first output is a scalar loss, differentiates it by the trained parameters of one network
// and, with the last micro-batch, updates them. It queues this work and does not wait for it. A gradient that is not
// finite changes nothing: the caller must look at Norm2 and the loss, at the latest before it keeps what later steps made.
// There is one exception: a tape that updates block by block (no accumulation, no clipping) has updated the blocks behind
// the first bad gradient when the loss was still finite; such a state must be dropped.
func (e *Engine) Train(f Function, bind Bind, network string, o *Optimizer, step Step, in ...*Array) (*Result, error) {
	if bind[network] != o.params {
		return nil, fmt.Errorf("the optimizer belongs to other parameters than network %q", network)
	}
	return e.meant(e.train(f, bind, network, o, step, in))
}

// meant gives a result of the whole group for one of a device's part of the batch.
func (e *Engine) meant(r *Result, err error) (*Result, error) {
	if err == nil {
		r.Outputs, err = e.mean(r.Outputs)
	}
	return r, err
}

func (e *Engine) train(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	if e.Granularity < nn.Network {
		return e.trainTape(f, bind, network, o, step, in)
	}
	if e.Split {
		return e.trainSplit(f, bind, network, o, step, in)
	}
	if e.fuses(step.Of) {
		return e.trainFused(f, bind, network, o, step, in)
	}
	return e.trainAccumulated(f, bind, network, o, step, in)
}

// fuses says whether gradient and update are one program: not where gradients are added up between the two.
func (e *Engine) fuses(micro int) bool { return micro <= 1 && e.group == nil }

// gradientNodes builds f and the gradients of its loss by the named parameters of a network (zeros for one that the
// function does not use). It takes the function's inputs, these parameters and the function's others, and gives its outputs.
func (e *Engine) gradientNodes(g *graph.Graph, p *program, f Function, bind Bind, network string, names []string, in []shapes.Shape) (params, grads []*graph.Node) {
	values := make([]nn.Value, len(in))
	for i, x := range p.take(g, argInput, in...) {
		values[i] = x
	}
	lookup := bind.lookup(g, p)
	for _, name := range names { // first, so that their order is the caller's
		a := bind[network].Get(name)
		params = append(params, lookup(nn.Spec{Name: network + "." + name, Dims: a.shape.Dimensions}))
	}
	p.takes.add(argParam, len(params))
	r := nn.NewInline(e.Compute, "", nil, lookup)
	results := nodes(f.Body(r, values))
	if results[0].Rank() != 0 {
		panic(fmt.Errorf("function %q: the first output must be a scalar loss, it has shape %s", f.Key, results[0].Shape()))
	}
	p.takes.add(argFrozen, len(p.params)-len(params))
	p.give(argOutput, results...)
	return params, graph.Gradient(results[0], params...)
}

// gradientArguments are what gradientNodes takes.
func gradientArguments(p *program, bind Bind, params *Params, names []string, in []*Array) (groups, error) {
	out := groups{argInput: in}
	for _, name := range names {
		out[argParam] = append(out[argParam], params.Get(name))
	}
	for _, name := range p.params[len(names):] {
		a, err := bind.find(name)
		if err != nil {
			return nil, err
		}
		out[argFrozen] = append(out[argFrozen], a)
	}
	return out, nil
}

// trainFused is forward, gradient and update in one program.
func (e *Engine) trainFused(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	settings := o.Adam
	key := e.key(fmt.Sprintf("train|%s%d|%s|%s", settings, len(o.names), network, bind.narrow()), f.Key, in)
	p, err := e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		params, grads := e.gradientNodes(g, p, f, bind, network, o.names, shapesOf(in))
		settings.step(g, p, params, grads, "")
		return p.given
	})
	if err != nil {
		return nil, err
	}
	args, err := gradientArguments(p, bind, o.params, o.names, in)
	if err != nil {
		return nil, err
	}
	hyper, err := e.hyper(o, step.LR, 1)
	if err != nil {
		return nil, err
	}
	defer hyper.Free()
	args[argState], args[argHyper] = o.state(), []*Array{hyper}
	if args[argNumber], err = e.numbers(o, o.all()); err != nil {
		return nil, err
	}
	out, err := e.apply(p, args)
	if err != nil {
		return nil, err
	}
	return e.replaceAll(o, out[argOutput], out[argNorm][0], out[argParam], out[argState]), nil
}

// replaceAll makes an update of all parameters at once what the network computes with.
func (e *Engine) replaceAll(o *Optimizer, outputs []*Array, norm2 *Array, params, state []*Array) *Result {
	for i, name := range o.names {
		o.params.arrays[name] = params[i]
	}
	o.setState(state)
	return e.updated(o, outputs, []*Array{norm2}, 1)
}

// trainAccumulated adds a micro-batch's gradients to what was added up before, and updates with the last one.
func (e *Engine) trainAccumulated(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	key := e.key(fmt.Sprintf("gradient|%d|%s|%s", len(o.names), network, bind.narrow()), f.Key, in)
	p, err := e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		params, grads := e.gradientNodes(g, p, f, bind, network, o.names, shapesOf(in))
		for i, sum := range p.take(g, argSum, shapesOfNodes(params)...) {
			grads[i] = graph.Add(sum, grads[i])
		}
		p.give(argSum, grads...)
		p.replace(argSum)
		return p.given
	})
	if err != nil {
		return nil, err
	}
	if step.Micro == 0 {
		if err := e.zeroAccumulators(o); err != nil {
			return nil, err
		}
	}
	args, err := gradientArguments(p, bind, o.params, o.names, in)
	if err != nil {
		return nil, err
	}
	args[argSum] = o.acc
	out, err := e.apply(p, args)
	if err != nil {
		return nil, err
	}
	o.acc = out[argSum]
	if !step.last() {
		return &Result{Outputs: out[argOutput]}, nil
	}
	if o.acc, err = e.sum(o.acc); err != nil {
		return nil, err
	}
	return e.applyAccumulated(o, step, out[argOutput])
}

func (e *Engine) zeroAccumulators(o *Optimizer) error {
	Free(o.acc...)
	o.acc = nil
	for _, name := range o.names {
		if err := e.zeros(&o.acc, o.params.Get(name), dtypes.Float32); err != nil {
			return err
		}
	}
	return nil
}

// applyAccumulated updates from o.acc, the mean over the step's micro-batches.
func (e *Engine) applyAccumulated(o *Optimizer, step Step, outputs []*Array) (*Result, error) {
	hyper, err := e.hyper(o, step.LR, e.share(step))
	if err != nil {
		return nil, err
	}
	defer hyper.Free()
	b := block{indices: o.all(), grads: o.acc, state: o.state()}
	for _, name := range o.names {
		b.params = append(b.params, o.params.Get(name))
	}
	norm2, err := e.update(o, &b, hyper, "", nil)
	if err != nil {
		return nil, err
	}
	o.acc = nil
	return e.replaceAll(o, outputs, norm2, b.params, b.state), nil
}
