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

// trained is what a gradient program remembers about its order of parameters.
type trained struct {
	outputs int      // outputs of the function
	frozen  []string // scope names of parameters that are not trained, in graph order
}

// gradientNodes builds f and the gradients of its loss by the named parameters of a network (zeros for one that the
// function does not use).
func (e *Engine) gradientNodes(g *graph.Graph, p *program, f Function, bind Bind, network string, names []string, in []shapes.Shape) (outputs, params, grads []*graph.Node) {
	values := inputNodes(g, in)
	lookup := bind.lookup(g, p)
	for _, name := range names { // first, so that their order is the caller's
		a := bind[network].Get(name)
		params = append(params, lookup(nn.Spec{Name: network + "." + name, Dims: a.shape.Dimensions}))
	}
	n := len(p.params)
	r := nn.NewInline(e.Compute, "", nil, lookup)
	outputs = nodes(f.Body(r, values))
	if outputs[0].Rank() != 0 {
		panic(fmt.Errorf("function %q: the first output must be a scalar loss, it has shape %s", f.Key, outputs[0].Shape()))
	}
	grads = graph.Gradient(outputs[0], params...)
	p.info = trained{outputs: len(outputs), frozen: p.params[n:]}
	return outputs, params, grads
}

func (e *Engine) gather(p *program, bind Bind, params *Params, names []string, in []*Array) ([]*Array, error) {
	args := append([]*Array{}, in...)
	for _, name := range names {
		args = append(args, params.Get(name))
	}
	for _, name := range p.info.(trained).frozen {
		a, err := bind.find(name)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	return args, nil
}

// fusedProgram is forward, gradient and update in one.
func (e *Engine) fusedProgram(f Function, bind Bind, network string, o *Optimizer, in []*Array) (*program, error) {
	key := e.key("train|"+o.signature()+"|"+network+"|"+bind.narrow(), f.Key, in)
	return e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		outputs, params, grads := e.gradientNodes(g, p, f, bind, network, o.names, shapesOf(in))
		state, hyper := o.stateNodes(g)
		norm2, newParams, newState := o.updateNodes(params, grads, state, hyper, nil, o.numbersNode(g, len(params)))
		n, at := len(outputs), len(in)+len(params)+len(p.info.(trained).frozen)
		p.aliases = map[int]int{}
		for i := range params {
			p.aliases[len(in)+i] = n + 1 + i
		}
		for i := range state {
			p.aliases[at+i] = n + 1 + len(params) + i
		}
		return append(append(append(outputs, norm2), newParams...), newState...)
	})
}

func (e *Engine) trainFused(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	p, err := e.fusedProgram(f, bind, network, o, in)
	if err != nil {
		return nil, err
	}
	args, err := e.gather(p, bind, o.params, o.names, in)
	if err != nil {
		return nil, err
	}
	hyper, err := e.hyper(o, step.LR, 1)
	if err != nil {
		return nil, err
	}
	defer hyper.Free()
	numbers, err := e.numbers(o, o.all())
	if err != nil {
		return nil, err
	}
	n, k := len(in), len(in)+len(o.names)
	var all arguments
	all.add("input", false, args[:n]...)
	all.add("param", true, args[n:k]...)
	all.add("frozen", false, args[k:]...)
	all.add("state", true, o.state()...)
	all.add("hyper", false, hyper)
	all.add("number", false, numbers...)
	out, err := e.execute(p, all.arrays, all.taken)
	if err != nil {
		return nil, err
	}
	n = p.info.(trained).outputs
	k = n + 1 + len(o.names)
	return e.replaceAll(o, out[:n:n], out[n], out[n+1:k:k], out[k:]), nil
}

// replaceAll makes an update of all parameters at once what the network computes with.
func (e *Engine) replaceAll(o *Optimizer, outputs []*Array, norm2 *Array, params, state []*Array) *Result {
	for i, name := range o.names {
		o.params.arrays[name] = params[i]
	}
	o.setState(state)
	return e.updated(o, outputs, []*Array{norm2}, 1)
}

// stateNodes makes the graph parameters of the moments and the hyper-parameters.
func (o *Optimizer) stateNodes(g *graph.Graph) (state []*graph.Node, hyper *graph.Node) {
	for i, a := range o.state() {
		state = append(state, graph.Parameter(g, fmt.Sprintf("state%d", i), a.shape))
	}
	return state, graph.Parameter(g, "hyper", shapes.Make(dtypes.Float32, hypers))
}

// gradientProgram adds a micro-batch's gradients to what was added up before.
func (e *Engine) gradientProgram(f Function, bind Bind, network string, o *Optimizer, in []*Array) (*program, error) {
	key := e.key(fmt.Sprintf("gradient|%d|%s|%s", len(o.names), network, bind.narrow()), f.Key, in)
	return e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		outputs, params, grads := e.gradientNodes(g, p, f, bind, network, o.names, shapesOf(in))
		at := len(in) + len(params) + len(p.info.(trained).frozen)
		p.aliases = map[int]int{}
		for i, param := range params {
			p.aliases[at+i] = len(outputs)
			acc := graph.Parameter(g, fmt.Sprintf("acc%d", i), param.Shape())
			outputs = append(outputs, graph.Add(acc, grads[i]))
		}
		return outputs
	})
}

// trainAccumulated adds gradients up over micro-batches and updates with the last one.
func (e *Engine) trainAccumulated(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	p, err := e.gradientProgram(f, bind, network, o, in)
	if err != nil {
		return nil, err
	}
	if step.Micro == 0 {
		if err := e.zeroAccumulators(o); err != nil {
			return nil, err
		}
	}
	args, err := e.gather(p, bind, o.params, o.names, in)
	if err != nil {
		return nil, err
	}
	donate := make([]bool, len(args)+len(o.acc))
	for i := range o.acc {
		donate[len(args)+i] = true
	}
	out, err := e.execute(p, append(args, o.acc...), donate)
	if err != nil {
		return nil, err
	}
	n := p.info.(trained).outputs
	o.acc = out[n:]
	if !step.last() { // outputs are the caller's to append to
		return &Result{Outputs: out[:n:n]}, nil
	}
	if o.acc, err = e.sum(o.acc); err != nil {
		return nil, err
	}
	return e.applyAccumulated(o, step, out[:n:n])
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
	norm2, err := e.update(o, &b, hyper, nil)
	if err != nil {
		return nil, err
	}
	o.acc = nil
	return e.replaceAll(o, outputs, norm2, b.params, b.state), nil
}
