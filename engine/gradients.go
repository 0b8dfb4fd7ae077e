package engine

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// gradients takes a block's parameter gradients, none where no gradient reached the block: updates at once, or adds them
// up. Over the devices they are reduced with the last visit of an update; with the last of a micro-batch where each
// device adds up its own tensors' alone.
func (w *walker) gradients(rec *entry, grads []*Array) (err error) {
	if len(rec.trained) == 0 {
		return nil
	}
	e, site, indices := w.e, rec.call.site(), w.indices(rec)
	w.left[site]--
	last := w.left[site] == 0
	if !w.immediate && !e.shards() {
		return w.accumulate(indices, grads, last && w.step.last())
	}
	if w.pending == nil {
		w.pending = map[string][]*Array{}
	}
	if grads, err = e.addAll(w.pending[site], grads); err != nil {
		return err
	}
	w.pending[site] = grads
	if !last || grads == nil {
		return nil
	}
	delete(w.pending, site)
	if w.immediate && e.overlaps() {
		w.owe(indices, grads)
		return nil
	}
	if grads, err = e.sum(grads); err != nil {
		return err
	}
	if w.immediate {
		return w.update(indices, grads)
	}
	if grads, indices = w.o.own(indices, grads), w.o.owned(indices); len(indices) == 0 {
		return nil
	}
	return w.accumulate(indices, grads, false)
}

// accumulate adds gradients to those of earlier micro-batches, and reduces the sums over the devices where that is whole.
func (w *walker) accumulate(indices []int, grads []*Array, whole bool) error {
	sums, err := w.ferry.take(indices)
	if err != nil {
		return err
	}
	if grads, err = w.e.addAll(sums, grads); err != nil {
		return err
	}
	if whole && grads != nil {
		if grads, err = w.e.sum(grads); err != nil {
			return err
		}
	}
	return w.ferry.put(indices, grads)
}

// addAll is a + b, one by one, and takes both. Either may be empty, or hold nothing but nil.
func (e *Engine) addAll(a, b []*Array) ([]*Array, error) {
	if len(a) == 0 || a[0] == nil {
		return b, nil
	}
	if len(b) == 0 {
		return a, nil
	}
	p, err := e.addition(shapesOf(a))
	if err != nil {
		return nil, err
	}
	return e.execute(p, slices.Concat(a, b), slices.Repeat([]bool{true}, 2*len(a)))
}

// addition is the program that adds two lists of arrays of these shapes, one by one, in place of the first list's: one program for a
// block's gradients, of which a network has hundreds, and not one for each.
func (e *Engine) addition(of []shapes.Shape) (*program, error) {
	return e.declare(fmt.Sprintf("sum of two|%v", of), func(g *graph.Graph, p *program) []*graph.Node {
		in := nodes(inputNodes(g, slices.Concat(of, of)))
		p.aliases = map[int]int{}
		out := make([]*graph.Node, len(of))
		for i := range of {
			p.aliases[i] = i
			out[i] = graph.Add(in[i], in[len(of)+i])
		}
		return out
	})
}

// update is one optimizer step for a block's parameters, of which this device makes those that it owns.
func (w *walker) update(indices []int, grads []*Array) (err error) {
	e, o := w.e, w.o
	if e.shards() {
		if w.norm2, err = e.norms(grads, w.hyper, w.norm2); err != nil {
			return err
		}
	}
	from := make([]*Array, len(indices))
	mine := o.owned(indices)
	if grads = o.own(indices, grads); len(mine) > 0 {
		made, err := w.updated(mine, grads)
		if err != nil {
			return err
		}
		for i, k := range indices {
			if o.owns(k) {
				from[i], made = made[0], made[1:]
			}
		}
	}
	return e.install(o, indices, from)
}

// updated is the new masters of parameters that this device owns, from their gradients.
func (w *walker) updated(indices []int, grads []*Array) ([]*Array, error) {
	e, o := w.e, w.o
	b := block{indices: indices, grads: grads}
	for _, k := range indices {
		b.params = append(b.params, o.master(k))
	}
	var err error
	if b.state, err = w.ferry.take(indices); err != nil {
		return nil, err
	}
	norm2, err := e.update(o, &b, w.hyper, argBefore, w.norm2)
	if err != nil {
		return nil, err
	}
	if e.shards() { // the norm is that of all devices' gradients
		norm2.Free()
	} else {
		w.norm2.Free()
		w.norm2 = norm2
	}
	return b.params, w.ferry.put(indices, b.state)
}

// add returns a + b and takes both.
func (e *Engine) add(a, b *Array) (*Array, error) {
	return e.one("add", 2, []*Array{a, b}, func(in []*graph.Node) *graph.Node { return graph.Add(in[0], in[1]) })
}
