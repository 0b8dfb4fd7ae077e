package engine

import (
	"fmt"
	"maps"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// trainTape is Train block by block. Where a block's parameters are visited once and neither accumulation nor clipping
// asks for whole gradients, the block is updated as soon as its gradient is there.
func (e *Engine) trainTape(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	t := &tape{e: e, bind: bind, level: e.Granularity, network: network, o: o}
	if err := e.planFor(t, f, passing{updates: step.Of <= 1 && o.ClipNorm == 0}, in); err != nil {
		return nil, err
	}
	outputs, err := t.walk(f, valuesOf(in))
	if err != nil {
		return nil, err
	}
	return e.finishTape(t, f, t.plan.visits, outputs, step)
}

// finishTape walks a tape back from the loss, the first of f's outputs, and updates. visits are those of the whole tape.
func (e *Engine) finishTape(t *tape, f Function, visits map[string]int, outputs []*tapeValue, step Step) (*Result, error) {
	o, loss := t.o, outputs[0]
	immediate := step.Of <= 1 && o.ClipNorm == 0
	if loss.Shape().Rank() != 0 {
		return nil, fmt.Errorf("function %q: the first output must be a scalar loss, it has shape %s", f.Key, loss.Shape())
	}
	if !immediate && step.Micro == 0 {
		Free(o.acc...)
		o.acc = make([]*Array, len(o.names))
	}
	w := &walker{tape: t, step: step, immediate: immediate, left: map[string]int{}, ferry: ferry{e: e, o: o, lists: o.ordered()}}
	if !immediate {
		w.ferry.lists = [][]*Array{o.acc}
	}
	maps.Copy(w.left, visits)
	var err error
	if loss.grad, w.norm2, err = e.start(loss.array); err != nil {
		return nil, err
	}
	defer func() { w.norm2.Free() }()                // unless the result took it
	if w.norm2, err = e.total(w.norm2); err != nil { // one device's bad loss is all devices'
		return nil, err
	}
	if immediate {
		if w.hyper, err = e.hyper(o, step.LR, e.share(step)); err != nil {
			return nil, err
		}
		defer w.hyper.Free()
	}
	if err := w.back(); err != nil {
		_ = w.ferry.finish()
		return nil, err
	}
	results := arraysOf(outputs)
	switch {
	case immediate:
		norm2 := w.norm2
		w.norm2 = nil
		return e.updated(o, results, []*Array{norm2}, 1), nil
	case !step.last():
		return &Result{Outputs: results}, nil
	}
	for k, a := range o.acc {
		if a != nil || !o.owns(k) {
			continue
		}
		var zero []*Array // a parameter that the function does not use
		if err := e.zeroState(&zero, o.master(k), dtypes.Float32); err != nil {
			return nil, err
		}
		o.acc[k] = zero[0]
	}
	return e.applyApart(o, step, results)
}

// start makes, on the device, what a walk back begins with: the loss's own cotangent, and the squared gradient norm so
// far. Both are not a number where the loss is not finite, so that no update changes anything.
func (e *Engine) start(loss *Array) (cotangent, norm2 *Array, err error) {
	out, err := e.op("start", 0, []*Array{loss}, func(in []*graph.Node) []*graph.Node {
		nothing := graph.MulScalar(in[0], 0)
		return []*graph.Node{graph.AddScalar(nothing, 1), nothing}
	})
	if err != nil {
		return nil, nil, err
	}
	return out[0], out[1], nil
}

// walker goes back over a tape.
type walker struct {
	*tape
	step      Step
	immediate bool
	hyper     *Array
	left      map[string]int      // visits to come per site
	norm2     *Array              // squared norm of the gradients applied so far; not finite = apply no more
	pending   map[string][]*Array // gradients of blocks that are visited more than once
	owed      *owed               // the gradients that are added up over the devices beside a later block
	ferry     ferry
}

func (w *walker) back() error {
	for i := len(w.entries) - 1; i >= 0; i-- {
		if i > 0 {
			if err := w.expect(&w.entries[i-1]); err != nil {
				return err
			}
		}
		if err := w.visit(&w.entries[i]); err != nil {
			return err
		}
		w.entries[i] = entry{}
	}
	if err := w.settle(); err != nil {
		return err
	}
	return w.ferry.finish()
}

// expect fetches what a block's gradients will be put to next, to be there when they are.
func (w *walker) expect(rec *entry) error {
	if len(rec.trained) == 0 || (w.immediate || w.e.shards()) && w.left[rec.call.site()] != 1 {
		return nil
	}
	if mine := w.o.owned(w.indices(rec)); len(mine) > 0 {
		return w.ferry.fetch(mine)
	}
	return nil
}

// indices are the optimizer's of a block's trained parameters.
func (w *walker) indices(rec *entry) []int {
	out := make([]int, len(rec.trained))
	for i, name := range rec.trained {
		_, rest := split(nn.Join(rec.call.prefix, name))
		out[i] = w.o.index[rest]
	}
	return out
}

func (w *walker) visit(rec *entry) error {
	e := w.e
	var args []*Array
	var shapesIn, outShapes []shapes.Shape
	needsIn, hasOut := make([]bool, len(rec.in)), make([]bool, len(rec.out))
	any := false
	for i, v := range rec.in {
		args = append(args, v.array)
		shapesIn = append(shapesIn, v.array.shape)
		needsIn[i] = v.needs
	}
	for i, v := range rec.out {
		outShapes = append(outShapes, v.array.shape)
		if v.grad != nil {
			hasOut[i], any = true, true
			args = append(args, v.grad)
		}
	}
	if any {
		b := backward{call: rec.call, in: shapesIn, out: outShapes, needsIn: needsIn, hasOut: hasOut, trained: rec.trained}
		before := w.due()
		if before != nil && !e.alone() {
			b.owed = shapesOf(before.grads)
		}
		p, err := e.backward(b, w.bind)
		if err != nil {
			return err
		}
		for _, name := range rec.params {
			a, err := w.bind.find(nn.Join(rec.call.prefix, name))
			if err != nil {
				return err
			}
			args = append(args, a)
		}
		out, sums, err := e.walkBack(p, args, before)
		if err != nil {
			return fmt.Errorf("backward of %s at %s: %w", rec.call.block.Kind, rec.call.prefix, err)
		}
		for i, v := range rec.in {
			if !needsIn[i] {
				continue
			}
			if v.grad == nil {
				v.grad = out[0]
			} else if v.grad, err = e.add(v.grad, out[0]); err != nil {
				return err
			}
			out = out[1:]
		}
		if before != nil {
			if err := w.paid(before, sums); err != nil {
				return err
			}
		}
		if err := w.gradients(rec, out); err != nil {
			return err
		}
	} else if err := w.gradients(rec, nil); err != nil {
		return err
	}
	for _, v := range rec.out {
		v.grad.Free()
		v.grad = nil
	}
	for _, v := range rec.in {
		v.held--
		v.release()
	}
	return nil
}

// programsBack lists the backward and update programs that the entries of a plan will need. Which outputs receive a
// cotangent follows from walking the entries back.
func (t *tape) programsBack(entries []planEntry, immediate bool) ([]func() (*program, error), error) {
	marked, left, overlaps := map[int]bool{t.plan.loss: true}, maps.Clone(t.plan.visits), immediate && t.e.overlaps() && !t.e.alone()
	var jobs []func() (*program, error)
	var owed []shapes.Shape // of the blocks before
	if t.o != nil && !immediate {
		jobs = t.e.apart(t.o)
	}
	for i := len(entries) - 1; i >= 0; i-- {
		en := entries[i]
		var shapesIn, outShapes []shapes.Shape
		needsIn, hasOut := make([]bool, len(en.in)), make([]bool, len(en.out))
		any := false
		for k, v := range en.out {
			outShapes = append(outShapes, v.shape)
			hasOut[k] = marked[v.id]
			any = any || hasOut[k]
		}
		if !any {
			continue
		}
		for k, v := range en.in {
			shapesIn = append(shapesIn, v.shape)
			needsIn[k] = v.needs
			marked[v.id] = marked[v.id] || v.needs
		}
		fwd, err := t.e.forward(en.call, t.bind, shapesIn)
		if err != nil {
			return nil, err
		}
		var trained []string
		var updated, mine, kept []shapes.Shape
		for _, name := range fwd.params {
			if scope := nn.Join(en.call.prefix, name); t.isTrained(scope) {
				trained = append(trained, name)
				_, rest := split(scope)
				shape := t.o.params.Get(rest).shape
				kept = append(kept, shape)
				shape.DType = dtypes.Float32 // of gradients and masters
				if updated = append(updated, shape); t.o.owns(t.o.index[rest]) {
					mine = append(mine, shape)
				}
			}
		}
		b := backward{call: en.call, in: shapesIn, out: outShapes, needsIn: needsIn, hasOut: hasOut, trained: trained}
		if overlaps && bytesOfAll(owed) >= t.e.bucket() {
			b.owed, owed = owed, nil
		}
		jobs = append(jobs, func() (*program, error) { return t.e.backward(b, t.bind) })
		if left[en.call.site()]--; left[en.call.site()] == 0 && overlaps {
			owed = append(owed, updated...)
		}
		if t.e.shards() && !t.e.alone() && len(trained) > 0 && immediate {
			jobs = append(jobs, func() (*program, error) { return t.e.normOf(updated) })
		}
		if t.e.group.programs() && !t.e.alone() && len(trained) > 0 {
			if !overlaps {
				jobs = append(jobs, func() (*program, error) { return t.e.reduction("sum", t.e.group.Reduce, updated) })
			}
			if t.e.shards() && immediate {
				jobs = append(jobs, func() (*program, error) { return t.e.publication(kept) })
			}
		}
		if len(mine) > 0 && immediate {
			jobs = append(jobs, func() (*program, error) { return t.e.updateProgram(t.o, formOf(mine, argBefore)) })
		}
	}
	if owed != nil {
		jobs = append(jobs, func() (*program, error) { return t.e.reduction("sum", t.e.group.Reduce, owed) })
	}
	return jobs, nil
}
