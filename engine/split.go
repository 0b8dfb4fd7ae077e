package engine

import (
	"fmt"
	"math"

	"fewstep/model/nn"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Splitting an update off the gradient.
//
// With Engine.Split a training step at network granularity is one gradient program and then one small update program
// per trained tensor, shared by all tensors of a shape. On CPUs, where compiling costs more than calling, that is a
// third of the compilation; on GPUs the fused program has fewer launches.
//
// Adapters are then materialised: the network's programs see W + scale·up∘down as their weight, and the adapters'
// gradients follow from the weight's. LoRA phases so run the very programs of the full phases.

// adapter is one materialised LoRA module of a parameter set.
type adapter struct {
	base *Array // the frozen weight, perhaps shared
	lora nn.LoRA
}

// Materialise replaces every adapted weight of the set by its effective value. The set's specs hold the adapters.
func (e *Engine) Materialise(p *Params, lora nn.LoRA) error {
	p.adapters = map[string]adapter{}
	for _, s := range p.Specs {
		if p.arrays[s.Name+".lora_down"] != nil {
			p.adapters[s.Name] = adapter{base: p.arrays[s.Name], lora: lora}
		}
	}
	return e.refresh(p)
}

// refresh computes the effective weights anew.
func (e *Engine) refresh(p *Params) error {
	for _, name := range p.adapted() {
		a := p.adapters[name]
		in := []*Array{a.base, p.arrays[name+".lora_down"], p.arrays[name+".lora_up"]}
		prog, err := e.get(e.key(fmt.Sprintf("adapt(%g)", a.lora.Scale), "", in), func(g *graph.Graph, _ *program) []*graph.Node {
			n := nodes(inputNodes(g, shapesOf(in)))
			return []*graph.Node{nn.Adapted(n[0], n[1], n[2], a.lora)}
		})
		if err != nil {
			return err
		}
		out, err := e.execute(prog, in, nil)
		if err != nil {
			return err
		}
		if old := p.arrays[name]; old != a.base {
			old.Free()
		}
		p.arrays[name] = out[0]
	}
	return nil
}

// adapted lists the weights with materialised adapters, in the order of the specs.
func (p *Params) adapted() (names []string) {
	for _, s := range p.Specs {
		if _, ok := p.adapters[s.Name]; ok {
			names = append(names, s.Name)
		}
	}
	return names
}

// Targets are the tensors that a split gradient program differentiates by: what is trained, or, under materialised
// adapters, every tensor of the network, so that adapters and full training share their programs.
func (p *Params) Targets() (names []string) {
	for _, s := range p.Specs {
		if p.adapters != nil && !IsLoRA(s.Name) || p.adapters == nil && p.trained[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names
}

// splitProgram is the gradient program of a function: its outputs, then the gradient of each target.
func (e *Engine) splitProgram(f Function, bind Bind, network string, targets []string, in []*Array) (*program, error) {
	key := e.key(fmt.Sprintf("split|%d|%s|%s", len(targets), network, bind.narrow()), f.Key, in)
	return e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		outputs, _, grads := e.gradientNodes(g, p, f, bind, network, targets, shapesOf(in))
		return append(outputs, grads...)
	})
}

func (e *Engine) trainSplit(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	targets := o.params.Targets()
	p, err := e.splitProgram(f, bind, network, targets, in)
	if err != nil {
		return nil, err
	}
	args, err := e.gather(p, bind, o.params, targets, in)
	if err != nil {
		return nil, err
	}
	out, err := e.execute(p, args, nil)
	if err != nil {
		return nil, err
	}
	n := p.info.(trained).outputs
	outputs, grads := out[:n], out[n:]
	if step.Of > 1 {
		if step.Micro == 0 {
			Free(o.acc...)
			o.acc = grads
		} else {
			for i := range grads {
				if o.acc[i], err = e.add(o.acc[i], grads[i]); err != nil {
					return nil, err
				}
			}
		}
		if step.Micro+1 < step.Of {
			return &Result{Outputs: outputs, Norm2: -1}, nil
		}
		grads, o.acc = o.acc, nil
	}
	norm2, err := e.applySplit(o, targets, grads, step)
	return &Result{Outputs: outputs, Norm2: norm2, Updated: true}, err
}

// applySplit updates every target from its gradient, which it takes, and returns the squared gradient norm.
func (e *Engine) applySplit(o *Optimizer, targets []string, grads []*Array, step Step) (float64, error) {
	scale := 1 / float64(max(step.Of, 1))
	if o.ClipNorm > 0 {
		norm, err := e.norm(grads) // with adapters: of the weights' gradients
		if err != nil {
			return 0, err
		}
		if norm *= scale; norm > o.ClipNorm {
			scale *= o.ClipNorm / norm
		}
	}
	hyper, err := e.hyper(o, step.LR, scale)
	if err != nil {
		return 0, err
	}
	defer hyper.Free()
	index := map[string]int{}
	for i, name := range o.names {
		index[name] = i
	}
	var updates []unitUpdate
	for k, name := range targets {
		units := []string{name}
		if _, ok := o.params.adapters[name]; ok {
			units = []string{name + ".lora_down", name + ".lora_up"}
		} else if o.params.adapters != nil {
			grads[k].Free() // a tensor without adapter stays as it is
			continue
		}
		u, err := e.updateUnit(o, name, units, index, grads[k], hyper)
		if err != nil {
			return 0, fmt.Errorf("updating %s: %w", name, err)
		}
		updates = append(updates, u)
	}
	total := 0.0
	for _, u := range updates {
		v, err := e.Floats(u.out[0])
		if err != nil {
			return 0, err
		}
		total += float64(v[0])
		u.out[0].Free()
	}
	// Only now is it known whether the whole gradient is finite.
	for _, u := range updates {
		if finite(total) {
			u.install(o, index)
		} else {
			Free(u.out[1:]...)
		}
	}
	o.count(total)
	return total, nil
}

// unitUpdate is an update that was computed but not yet installed.
type unitUpdate struct {
	name  string   // of the differentiated tensor
	units []string // trained tensors
	out   []*Array // norm², new parameters, new state, effective weight of an adapted tensor
}

// install puts the new arrays in place of the old ones.
func (u unitUpdate) install(o *Optimizer, index map[string]int) {
	out := u.out[1:]
	put := func(at **Array) {
		(*at).Free()
		*at, out = out[0], out[1:]
	}
	for _, name := range u.units {
		a := o.params.arrays[name]
		put(&a)
		o.params.arrays[name] = a
	}
	for _, list := range o.ordered() {
		for _, name := range u.units {
			put(&list[index[name]])
		}
	}
	if len(out) > 0 {
		a := o.params.arrays[u.name]
		put(&a)
		o.params.arrays[u.name] = a
	}
}

// updateUnit computes one optimizer step for a tensor, or for the two factors of an adapted weight. It takes grad.
func (e *Engine) updateUnit(o *Optimizer, name string, units []string, index map[string]int, grad, hyper *Array) (unitUpdate, error) {
	a, adapts := o.params.adapters[name]
	args := []*Array{grad}
	if adapts {
		args = append(args, a.base)
	}
	for _, u := range units {
		args = append(args, o.params.arrays[u])
	}
	for _, list := range o.ordered() {
		for _, u := range units {
			args = append(args, list[index[u]])
		}
	}
	args = append(args, hyper)
	p, err := e.updateProgram(o, a, adapts, len(units), args)
	if err != nil {
		return unitUpdate{}, err
	}
	donate := make([]bool, len(args))
	donate[0] = true
	out, err := e.execute(p, args, donate)
	return unitUpdate{name: name, units: units, out: out}, err
}

// updateProgram is keyed by shapes and settings: tensors of one shape share it.
func (e *Engine) updateProgram(o *Optimizer, a adapter, adapts bool, n int, args []*Array) (*program, error) {
	settings := *o
	key := fmt.Sprintf("unit(%g,%g,%g,%g,%g)", o.Beta1, o.Beta2, o.Eps, o.WeightDecay, o.EMA)
	if adapts {
		key += fmt.Sprintf("lora(%d,%g)", a.lora.Rank, a.lora.Scale)
	}
	settings.ClipNorm = 0
	return e.declare(e.key(key, "", args), func(g *graph.Graph, _ *program) []*graph.Node {
		in := nodes(inputNodes(g, shapesOf(args)))
		grad, hyper, rest := in[0], in[len(in)-1], in[1:len(in)-1]
		grads := []*graph.Node{grad}
		var base *graph.Node
		if adapts {
			base, rest = rest[0], rest[1:]
			down, up := nn.AdapterGradients(grad, rest[0], rest[1], a.lora)
			grads = []*graph.Node{down, up}
		}
		norm2, params, state := settings.updateNodes(rest[:n], grads, rest[n:], hyper, nil)
		out := append(append([]*graph.Node{norm2}, params...), state...)
		if adapts {
			out = append(out, nn.Adapted(base, params[0], params[1], a.lora))
		}
		return out
	})
}

// ordered lists the state in the order that updateNodes takes and returns it.
func (o *Optimizer) ordered() (lists [][]*Array) {
	if o.Beta1 != 0 {
		lists = append(lists, o.m)
	}
	lists = append(lists, o.v)
	if o.EMA != 0 {
		lists = append(lists, o.ema)
	}
	return lists
}

// norm is the norm of several arrays together.
func (e *Engine) norm(arrays []*Array) (float64, error) {
	total := 0.0
	for _, a := range arrays {
		p, err := e.get(e.key("norm2", "", []*Array{a}), func(g *graph.Graph, _ *program) []*graph.Node {
			x := nodes(inputNodes(g, []shapes.Shape{a.shape}))[0]
			return []*graph.Node{graph.ReduceAllSum(graph.Square(x))}
		})
		if err != nil {
			return 0, err
		}
		out, err := e.execute(p, []*Array{a}, nil)
		if err != nil {
			return 0, err
		}
		v, err := e.Floats(out[0])
		if err != nil {
			return 0, err
		}
		out[0].Free()
		total += float64(v[0])
	}
	return math.Sqrt(total), nil
}
