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
	index := map[string]int{}
	for i, name := range o.names {
		index[name] = i
	}
	for k, name := range targets {
		units := []string{name}
		if _, ok := o.params.adapters[name]; ok {
			units = []string{name + ".lora_down", name + ".lora_up"}
		} else if !o.params.trained[name] {
			grads[k].Free() // under adapters: a tensor that has none and is not trained itself
			continue
		}
		norm2, err := e.updateUnit(o, name, units, index, grads[k], hyper, sound)
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

// updateUnit takes one optimizer step for a tensor, or for the two factors of an adapted weight, and returns the squared
// norm of its gradient. It takes grad.
func (e *Engine) updateUnit(o *Optimizer, name string, units []string, index map[string]int, grad, hyper, sound *Array) (norm2 *Array, err error) {
	a, adapts := o.params.adapters[name]
	args := []*Array{grad}
	if adapts {
		args = append(args, a.base)
	}
	first := len(args)
	for _, u := range units {
		args = append(args, o.params.arrays[u])
	}
	for _, list := range o.ordered() {
		for _, u := range units {
			args = append(args, list[index[u]])
		}
	}
	last := len(args)
	args = append(args, hyper, sound)
	var which []int
	for _, u := range units {
		which = append(which, index[u])
	}
	numbers, err := e.numbers(o, which)
	if err != nil {
		return nil, err
	}
	args = append(args, numbers...)
	p, err := e.updateProgram(o, a, adapts, len(units), first, last, args)
	if err != nil {
		return nil, err
	}
	donate := make([]bool, len(args))
	donate[0] = true
	for i := first; i < last; i++ {
		donate[i] = true
	}
	out, err := e.executeUpdate(p, args, donate, grad)
	if err != nil {
		return nil, err
	}
	norm2, out = out[0], out[1:]
	for i, u := range units {
		o.params.arrays[u] = out[i]
	}
	for k, list := range o.ordered() {
		for i, u := range units {
			list[index[u]] = out[(k+1)*len(units)+i]
		}
	}
	if adapts {
		if old := o.params.arrays[name]; old != a.base {
			old.Free()
		}
		o.params.arrays[name] = out[last-first]
	}
	return norm2, nil
}

// updateProgram is keyed by shapes and settings: tensors of one shape share it. Arguments first to last are the tensors
// and the state that it changes.
func (e *Engine) updateProgram(o *Optimizer, a adapter, adapts bool, n, first, last int, args []*Array) (*program, error) {
	settings := *o
	settings.ClipNorm = 0
	key := "unit" + settings.settings()
	if adapts {
		key += fmt.Sprintf("lora(%d,%g)", a.lora.Rank, a.lora.Scale)
	}
	return e.declare(e.key(key, "", args), func(g *graph.Graph, p *program) []*graph.Node {
		p.aliases = map[int]int{}
		for i := first; i < last; i++ {
			p.aliases[i] = 1 + i - first
		}
		in := nodes(inputNodes(g, shapesOf(args)))
		grad, rest, hyper, sound := in[0], in[1:last], in[last], in[last+1]
		grads := []*graph.Node{grad}
		var base *graph.Node
		if adapts {
			base, rest = rest[0], rest[1:]
			down, up := nn.AdapterGradients(grad, rest[0], rest[1], a.lora)
			grads = []*graph.Node{down, up}
		}
		var numbers *graph.Node
		if settings.rounds() {
			numbers = in[last+2]
		}
		norm2, params, state := settings.updateNodes(rest[:n], grads, rest[n:], hyper, sound, numbers)
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
