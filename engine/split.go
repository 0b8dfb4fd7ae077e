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

// splitProgram is the gradient program of a function: its outputs, a scalar that is finite where every gradient is, and
// the gradient of each target.
func (e *Engine) splitProgram(f Function, bind Bind, network string, targets []string, in []*Array) (*program, error) {
	key := e.key(fmt.Sprintf("split|%d|%s|%s", len(targets), network, bind.narrow()), f.Key, in)
	return e.declare(key, func(g *graph.Graph, p *program) []*graph.Node {
		outputs, _, grads := e.gradientNodes(g, p, f, bind, network, targets, shapesOf(in))
		sound := graph.Zeros(g, shapes.Make(dtypes.Float32))
		for _, grad := range grads {
			sound = graph.Add(sound, graph.ReduceAllSum(graph.ConvertDType(grad, dtypes.Float32)))
		}
		return append(append(outputs, graph.MulScalar(sound, 0)), grads...)
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
	outputs, grads := out[:n:n], out[n:]
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
	defer func() { hyper.Free() }()
	var all *Array // squared norm of what is trained, where it is clipped
	if o.ClipNorm > 0 {
		if all, err = e.norm2(o.params, targets, grads); err != nil {
			return nil, 0, err
		}
		clipped, err := e.clipped(o, hyper, all)
		if err != nil {
			return nil, 0, err
		}
		hyper.Free()
		hyper = clipped
	}
	single := o.unclipped() // hyper has it
	for k, name := range targets {
		b := block{grads: grads[k : k+1]}
		units := []string{name}
		if a, ok := o.params.adapters[name]; ok {
			units, b.adapter = []string{name + ".lora_down", name + ".lora_up"}, &a
		} else if !o.params.trained[name] {
			grads[k].Free() // under adapters: a tensor that has none and is not trained itself
			continue
		}
		norm2, err := e.updateTarget(single, &b, name, units, hyper, sound)
		if err != nil {
			return nil, 0, fmt.Errorf("updating %s: %w", name, err)
		}
		norms = append(norms, norm2)
	}
	if all != nil {
		Free(norms...)
		return []*Array{all}, scale, nil
	}
	return norms, 1, nil // updates scale the gradient before they take its norm
}

// updateTarget takes one optimizer step for a tensor, or for the two factors of an adapted weight, which units name, and
// returns the squared norm of its gradient.
func (e *Engine) updateTarget(o *Optimizer, b *block, name string, units []string, hyper, sound *Array) (norm2 *Array, err error) {
	for _, u := range units {
		b.indices, b.params = append(b.indices, o.index[u]), append(b.params, o.params.arrays[u])
	}
	for _, list := range o.ordered() {
		for _, k := range b.indices {
			b.state = append(b.state, list[k])
		}
	}
	if norm2, err = e.update(o, b, hyper, sound); err != nil {
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

// norm2 is the squared norm of the targets' gradients by what is trained, of an adapted weight by its factors, on the
// device: nothing waits for it.
func (e *Engine) norm2(p *Params, targets []string, grads []*Array) (total *Array, err error) {
	if total, err = e.Upload([]float32{0}); err != nil {
		return nil, err
	}
	for i, name := range targets {
		if a, ok := p.adapters[name]; ok {
			total, err = e.addAdapterNorm2(total, grads[i], p.arrays[name+".lora_down"], p.arrays[name+".lora_up"], a.lora)
		} else if p.trained[name] {
			total, err = e.addNorm2(total, grads[i])
		}
		if err != nil {
			return nil, err
		}
	}
	return total, nil
}

// addAdapterNorm2 adds the squared norms of the gradients by an adapter's factors, given that by its weight, to a sum,
// which it takes.
func (e *Engine) addAdapterNorm2(total, grad, down, up *Array, lora nn.LoRA) (*Array, error) {
	in := []*Array{total, grad, down, up}
	p, err := e.get(e.key(fmt.Sprintf("norm2 lora(%d,%g)", lora.Rank, lora.Scale), "", in), func(g *graph.Graph, p *program) []*graph.Node {
		p.aliases = map[int]int{0: 0}
		n := nodes(inputNodes(g, shapesOf(in)))
		byDown, byUp := nn.AdapterGradients(graph.ConvertDType(n[1], dtypes.Float32), n[2], n[3], lora)
		return []*graph.Node{graph.Add(n[0], graph.Add(graph.ReduceAllSum(graph.Square(byDown)), graph.ReduceAllSum(graph.Square(byUp))))}
	})
	if err != nil {
		return nil, err
	}
	out, err := e.execute(p, in, []bool{true, false, false, false})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// addNorm2 adds an array's squared norm to a sum, which it takes.
func (e *Engine) addNorm2(total, a *Array) (*Array, error) {
	in := []*Array{total, a}
	p, err := e.get(e.key("norm2", "", in), func(g *graph.Graph, p *program) []*graph.Node {
		p.aliases = map[int]int{0: 0}
		n := nodes(inputNodes(g, shapesOf(in)))
		return []*graph.Node{graph.Add(n[0], graph.ReduceAllSum(graph.Square(graph.ConvertDType(n[1], dtypes.Float32))))}
	})
	if err != nil {
		return nil, err
	}
	out, err := e.execute(p, in, []bool{true, false})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// clipped is hyper with a gradient scale at which gradients of a squared norm are no longer than ClipNorm.
func (e *Engine) clipped(o *Optimizer, hyper, norm2 *Array) (*Array, error) {
	in := []*Array{hyper, norm2}
	p, err := e.get(e.key(fmt.Sprintf("clip(%g)", o.ClipNorm), "", in), func(g *graph.Graph, _ *program) []*graph.Node {
		n := nodes(inputNodes(g, shapesOf(in)))
		scale := graph.SliceAxis(n[0], 0, graph.AxisRange(3, 4))
		norm := graph.AddScalar(graph.Mul(graph.Reshape(graph.Sqrt(n[1]), 1), scale), 1e-12)
		scale = graph.Mul(scale, graph.MinScalar(graph.Div(graph.MulScalar(graph.OnesLike(norm), o.ClipNorm), norm), 1))
		return []*graph.Node{graph.Concatenate([]*graph.Node{graph.SliceAxis(n[0], 0, graph.AxisRange(0, 3)), scale,
			graph.SliceAxis(n[0], 0, graph.AxisRange(4, hypers))}, 0)}
	})
	if err != nil {
		return nil, err
	}
	out, err := e.execute(p, in, nil)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}
