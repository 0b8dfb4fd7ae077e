package engine

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
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
		whole, err := e.one(fmt.Sprintf("adapt(%g)", a.lora.Scale), 0, in, func(in []*graph.Node) *graph.Node {
			return nn.Adapted(in[0], in[1], in[2], a.lora)
		})
		if err != nil {
			return err
		}
		if old := p.arrays[name]; old != a.base {
			old.Free()
		}
		p.arrays[name] = whole
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

// Targets lists the tensors by which a split gradient program differentiates: the trained ones or, where adapters are
// materialised, every tensor of the network, so that training of adapters and of all weights share programs.
func (p *Params) Targets() (names []string) {
	for _, s := range p.Specs {
		if p.adapters != nil && !IsLoRA(s.Name) || p.adapters == nil && p.trained[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names
}

// trainSplit is the gradient as a program and then updates of each tensor. Its gradient program gives a number, too, that is
// finite where every gradient is.
func (e *Engine) trainSplit(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	targets := o.params.Targets()
	key := e.key(fmt.Sprintf("split|%d|%s|%s", len(targets), network, bind.narrow()), f.Key, in)
	p, err := e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		_, grads := e.gradientNodes(g, p, f, bind, network, targets, shapesOf(in))
		sum := graph.Zeros(g, shapes.Make(dtypes.Float32))
		for _, grad := range grads {
			sum = graph.Add(sum, graph.ReduceAllSum(graph.ConvertDType(grad, dtypes.Float32)))
		}
		p.give(argGradient, append([]*graph.Node{graph.MulScalar(sum, 0)}, grads...)...)
		return p.given
	})
	if err != nil {
		return nil, err
	}
	args, err := gradientArguments(p, bind, o.params, targets, in)
	if err != nil {
		return nil, err
	}
	out, err := e.apply(p, args)
	if err != nil {
		return nil, err
	}
	outputs, grads := out[argOutput], out[argGradient]
	if step.Of > 1 {
		if step.Micro == 0 {
			Free(o.acc...)
			o.acc = grads
		} else {
			for i := range grads { // tensors of one shape share a program, which a CPU compiles sooner than one for all
				if o.acc[i], err = e.add(o.acc[i], grads[i]); err != nil {
					return nil, err
				}
			}
		}
		if !step.last() {
			return &Result{Outputs: outputs}, nil
		}
		grads, o.acc = o.acc, nil
	}
	if grads, err = e.sum(grads); err != nil {
		return nil, err
	}
	defer grads[0].Free()
	norms, scale, err := e.applySplit(o, targets, grads[0], grads[1:], step)
	if err != nil {
		return nil, err
	}
	return e.updated(o, outputs, norms, scale), nil
}

// applySplit updates every target from its gradient, which it takes, in place, and returns the squared norms of the
// gradient's parts, and the scale of the gradient that they are of. Where sound is not finite nothing changes.
func (e *Engine) applySplit(o *Optimizer, targets []string, sound *Array, grads []*Array, step Step) (norms []*Array, scale float64, err error) {
	scale = e.share(step)
	hyper, err := e.hyper(o, step.LR, scale)
	if err != nil {
		return nil, 0, err
	}
	defer hyper.Free()
	kind, norm := argBefore, sound
	if o.ClipNorm > 0 {
		if norm, err = e.norm2(o.params, targets, grads, sound); err != nil {
			return nil, 0, err
		}
		kind = argWhole
	}
	for k, name := range targets {
		b := block{grads: grads[k : k+1]}
		units := []string{name}
		if a, ok := o.params.adapters[name]; ok {
			units, b.adapter = []string{name + ".lora_down", name + ".lora_up"}, &a
		} else if !o.params.trained[name] {
			grads[k].Free() // under adapters: a tensor that has none and is not trained itself
			continue
		}
		norm2, err := e.updateTarget(o, &b, name, units, hyper, kind, norm)
		if err != nil {
			return nil, 0, fmt.Errorf("updating %s: %w", name, err)
		}
		norms = append(norms, norm2)
	}
	if kind == argWhole {
		return []*Array{norm}, scale, nil
	}
	return norms, 1, nil // updates scale the gradient before they take its norm
}

// updateTarget is update for a tensor, or for the two factors of an adapted weight, which units name.
func (e *Engine) updateTarget(o *Optimizer, b *block, name string, units []string, hyper *Array, kind string, norm *Array) (norm2 *Array, err error) {
	for _, u := range units {
		b.indices, b.params = append(b.indices, o.index[u]), append(b.params, o.params.arrays[u])
	}
	for _, list := range o.ordered() {
		for _, k := range b.indices {
			b.state = append(b.state, list[k])
		}
	}
	if norm2, err = e.update(o, b, hyper, kind, norm); err != nil {
		return nil, err
	}
	for i, u := range units {
		o.params.arrays[u] = b.params[i]
	}
	for _, list := range o.ordered() {
		for _, k := range b.indices {
			list[k], b.state = b.state[0], b.state[1:]
		}
	}
	if b.adapter != nil {
		if old := o.params.arrays[name]; old != b.adapter.base {
			old.Free()
		}
		o.params.arrays[name] = b.weight
	}
	return norm2, nil
}

// norm2 is the squared norm of the targets' gradients by what is trained, of an adapted weight by its factors, on the
// device: nothing waits for it. It is not finite where sound is not.
func (e *Engine) norm2(p *Params, targets []string, grads []*Array, sound *Array) (total *Array, err error) {
	if total, err = e.copy(sound); err != nil {
		return nil, err
	}
	for i, name := range targets {
		if a, ok := p.adapters[name]; ok {
			total, err = e.addNorm2(total, grads[i], &a.lora, p.arrays[name+".lora_down"], p.arrays[name+".lora_up"])
		} else if p.trained[name] {
			total, err = e.addNorm2(total, grads[i], nil)
		}
		if err != nil {
			return nil, err
		}
	}
	return total, nil
}

// addNorm2 adds a gradient's squared norm to a sum, which it takes: where it is that by an adapted weight, the squared norms of
// the gradients by its factors, down and up.
func (e *Engine) addNorm2(total, grad *Array, lora *nn.LoRA, factors ...*Array) (*Array, error) {
	key := "norm2"
	if lora != nil {
		key = fmt.Sprintf("norm2 lora(%d,%g)", lora.Rank, lora.Scale)
	}
	return e.one(key, 1, append([]*Array{total, grad}, factors...), func(in []*graph.Node) *graph.Node {
		sum, grads := in[0], []*graph.Node{graph.ConvertDType(in[1], dtypes.Float32)}
		if lora != nil {
			down, up := nn.AdapterGradients(grads[0], in[2], in[3], *lora)
			grads = []*graph.Node{down, up}
		}
		part := graph.ReduceAllSum(graph.Square(grads[0]))
		for _, x := range grads[1:] {
			part = graph.Add(part, graph.ReduceAllSum(graph.Square(x)))
		}
		return graph.Add(sum, part)
	})
}
