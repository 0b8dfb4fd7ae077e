package engine

import (
	"errors"
	"fmt"
	"slices"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Training state that is dealt out over the devices of a group.
//
// With Engine.Shard each trained tensor has one owner among the devices. The owner alone keeps its moments and average, and
// its master in f32 where the network computes in bf16: every device, the owner too, then computes with a bf16 copy of
// matrices and kernels, which gives the bits that the master would give. A block's gradients are added up over the devices,
// its owner updates, and the new weights go to all. Gradients of several micro-batches are added up by their owners alone,
// and so go over the wire with each micro-batch.
//
// Tensors are dealt out in the order of the network, so that a block's lie together but where one owner's share ends.

// shards says whether state is dealt out.
func (e *Engine) shards() bool { return e.Shard && e.group != nil }

// owners are the owning device of each of a network's trained tensors, given their sizes in order.
func (e *Engine) owners(sizes []int) []int {
	out := make([]int, len(sizes))
	if !e.shards() {
		for i := range out {
			out[i] = e.rank
		}
		return out
	}
	return deal(sizes, e.replicas())
}

// deal gives each of some tensors, whose sizes are given in order, to one of n owners, each of whom has about as much.
func deal(sizes []int, n int) []int {
	out := make([]int, len(sizes))
	total, before := 0, 0
	for _, s := range sizes {
		total += s
	}
	for i, s := range sizes {
		out[i] = min((2*before+s)*n/max(2*total, 1), n-1)
		before += s
	}
	return out
}

// Process returns the process, 0 to n−1, that saves a trained parameter and its state in a checkpoint of n processes. Where
// state is dealt out over the devices it is the owner's process.
func (o *Optimizer) Process(name string, n int) int { return deal(o.sizes, n)[o.index[name]] }

// working says whether a trained tensor is computed with in bf16, over a master that its owner keeps.
func (e *Engine) working(s nn.Spec) bool {
	return e.shards() && e.Compute == dtypes.BFloat16 && len(s.Dims) >= 2 && !s.Wide && !IsLoRA(s.Name)
}

// mine says of each spec whether it is trained and this device owns it.
func (e *Engine) mine(specs []nn.Spec, trained func(string) bool) map[string]bool {
	var names []string
	var sizes []int
	for _, s := range specs {
		if trained != nil && trained(s.Name) {
			names, sizes = append(names, s.Name), append(sizes, s.Size())
		}
	}
	out := map[string]bool{}
	for i, owner := range e.owners(sizes) {
		out[names[i]] = owner == e.rank
	}
	return out
}

// owns says whether this device keeps a tensor's state.
func (o *Optimizer) owns(k int) bool { return o.owner[k] == o.rank }

// owned are those of some tensors whose state this device keeps.
func (o *Optimizer) owned(indices []int) []int {
	var out []int
	for _, k := range indices {
		if o.owns(k) {
			out = append(out, k)
		}
	}
	return out
}

// own drops the arrays of tensors whose state other devices keep.
func (o *Optimizer) own(indices []int, arrays []*Array) []*Array {
	var out []*Array
	for i, k := range indices {
		if o.owns(k) {
			out = append(out, arrays[i])
		} else {
			arrays[i].Free()
		}
	}
	return out
}

// keeper is the optimizer that keeps a tensor's state; it belongs to its owner's engine. It is nil where a device of another
// process does.
func (o *Optimizer) keeper(k int) *Optimizer {
	if o.owns(k) {
		return o
	}
	for _, other := range o.team {
		if other.owns(k) {
			return other
		}
	}
	return nil
}

// master is what an update changes of a trained tensor, on its owner.
func (o *Optimizer) master(k int) *Array {
	a := o.params.Get(o.names[k])
	if a.master != nil {
		return a.master
	}
	return a
}

// Master copies a trained tensor to the host, in f32, from whichever device keeps it.
func (e *Engine) Master(o *Optimizer, name string) ([]float32, error) {
	k, ok := o.index[name]
	if !ok {
		return nil, fmt.Errorf("no trained parameter %q", name)
	}
	keeper := o.keeper(k)
	if keeper == nil {
		return nil, fmt.Errorf("trained parameter %q: a device of another process keeps it", name)
	}
	return e.Floats(keeper.master(k))
}

// joinTeam makes the optimizers of the same parameters on all devices known to each other.
func (e *Engine) joinTeam(o *Optimizer) error {
	if !e.shards() {
		return nil
	}
	if e.Granularity >= nn.Network {
		return errors.New("training state dealt out over devices: at granularity network an update takes all state at once; choose granularity stage or layer")
	}
	if e.device.hollow() {
		return nil
	}
	all, err := e.group.meet(e.slot, "optimizer", o, func(all []any) ([]any, error) {
		team := make([]*Optimizer, len(all))
		for i, o := range all {
			team[i] = o.(*Optimizer)
		}
		return slices.Repeat([]any{team}, len(all)), nil
	})
	if err == nil {
		o.team = all.([]*Optimizer)
	}
	return err
}

// install makes an update's results what the network computes with: from is, for each tensor of this device, its new
// master, nil for others'. Every device has the new weights afterwards. Tensors that the group does not deal out are as
// they are.
func (e *Engine) install(o *Optimizer, indices []int, from []*Array) error {
	if !e.shards() {
		for i, k := range indices {
			o.params.arrays[o.names[k]] = from[i]
		}
		return nil
	}
	fresh, flags, working := make([]*Array, len(indices)), make([]float32, len(indices)), make([]bool, len(indices))
	for i, k := range indices {
		old := o.params.Get(o.names[k])
		working[i] = old.working
		switch {
		case from[i] == nil:
			fresh[i] = old
		case old.working:
			var err error
			if fresh[i], err = e.convert(from[i], old.shape.DType); err != nil {
				return err
			}
			old.master = nil // it was the update's
			old.Free()
			flags[i] = 1
		default:
			fresh[i], flags[i] = from[i], 1
		}
	}
	out, err := e.publish(fresh, flags)
	if err != nil {
		return err
	}
	for i, k := range indices {
		name := o.names[k]
		if out[i].working = working[i]; working[i] {
			out[i].master = from[i]
		}
		o.params.arrays[name] = out[i]
	}
	return nil
}

// publish gives every device the arrays of those that own them, by flags of 1, and takes all.
func (e *Engine) publish(arrays []*Array, flags []float32) ([]*Array, error) {
	if e.alone() {
		return arrays, nil
	}
	if !e.group.programs() {
		for i, a := range arrays {
			if flags[i] != 0 {
				continue
			}
			a.Free() // another device's
			var err error
			if arrays[i], err = e.uploadAs(a.shape.DType, make([]float32, a.shape.Size()), a.shape.Dimensions); err != nil {
				return nil, err
			}
		}
		return e.addOverHosts("publish", dtypes.Float32, arrays)
	}
	owned, err := e.Upload(flags, len(flags))
	if err != nil {
		return nil, err
	}
	p, err := e.publication(shapesOf(arrays))
	if err != nil {
		return nil, err
	}
	in, taken, err := p.arrange(groups{argParam: arrays, argFlag: {owned}}, argParam, argFlag)
	if err != nil {
		return nil, err
	}
	return e.join(p, in, taken)
}

// publication is the program of publish: all devices add up what the owners have and the others have not.
func (e *Engine) publication(of []shapes.Shape) (*program, error) {
	return e.declareFor(e.group, fmt.Sprintf("publish|%d|%v", e.replicas(), of), func(g *graph.Graph, p *program) []*graph.Node {
		all := p.take(g, argParam, of...)
		owned := p.take(g, argFlag, shapes.Make(dtypes.Float32, len(of)))[0]
		for i, x := range all {
			ours := graph.GreaterThan(number(owned, i), graph.ScalarZero(g, dtypes.Float32))
			all[i] = graph.Where(graph.BroadcastToDims(ours, x.Shape().Dimensions...), x, graph.ZerosLike(x))
		}
		p.give(argParam, allReduce(all)...)
		p.replace(argParam)
		return p.given
	})
}

// norms adds the squared norm of gradients, scaled as an update scales them, to a squared norm, which it takes.
func (e *Engine) norms(grads []*Array, hyper, before *Array) (*Array, error) {
	p, err := e.normOf(shapesOf(grads))
	if err != nil {
		return nil, err
	}
	out, err := e.apply(p, groups{argGradient: grads, argHyper: {hyper}, argNorm: {before}})
	if err != nil {
		return nil, err
	}
	return out[argNorm][0], nil
}

// normOf is the program of norms.
func (e *Engine) normOf(grads []shapes.Shape) (*program, error) {
	return e.declare(fmt.Sprintf("norms|%v", grads), func(g *graph.Graph, p *program) []*graph.Node {
		by, hyper, sum := p.take(g, argGradient, grads...), p.take(g, argHyper, hyperShape())[0], p.take(g, argNorm, shapes.Make(dtypes.Float32))[0]
		scale := number(hyper, hyperScale)
		for _, x := range by {
			sum = graph.Add(sum, graph.ReduceAllSum(graph.Square(mulScalar(x, scale))))
		}
		p.give(argNorm, sum)
		p.replace(argNorm)
		return p.given
	})
}
