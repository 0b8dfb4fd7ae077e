package engine

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// applyApart updates from o.acc, the mean over a step's micro-batches, tensor by tensor: tensors of one shape share a small
// program, where one program for SDXL's thousands of tensors would take minutes to compile. Where any gradient is not
// finite nothing changes; that is found on the device.
func (e *Engine) applyApart(o *Optimizer, step Step, outputs []*Array) (*Result, error) {
	scale := e.share(step)
	norm2, err := e.norm2OfSums(o)
	if err != nil {
		return nil, err
	}
	defer func() { norm2.Free() }() // unless the result took it
	hyper, err := e.hyper(o, step.LR, scale)
	if err != nil {
		return nil, err
	}
	defer hyper.Free()
	state := &ferry{e: e, o: o, lists: append([][]*Array{o.acc}, o.ordered()...)}
	defer func() { _ = state.finish() }()
	for k := range o.names {
		if !o.owns(k) {
			if err := e.install(o, []int{k}, []*Array{nil}); err != nil {
				return nil, err
			}
			continue
		}
		if err := state.expect(k + 1); err != nil {
			return nil, err
		}
		taken, err := state.take([]int{k})
		if err != nil {
			return nil, err
		}
		b := block{indices: []int{k}, params: []*Array{o.master(k)}, grads: taken[:1], state: taken[1:]}
		if _, err := e.update(o, &b, hyper, argWhole, norm2); err != nil {
			return nil, err
		}
		if err := state.put([]int{k}, append([]*Array{nil}, b.state...)); err != nil {
			return nil, err
		}
		if err := e.install(o, []int{k}, b.params); err != nil {
			return nil, err
		}
	}
	o.acc = nil
	if err := state.finish(); err != nil {
		return nil, err
	}
	norms := []*Array{norm2}
	norm2 = nil
	return e.updated(o, outputs, norms, scale), nil
}

// norm2OfSums is the squared norm of o.acc, on the device.
func (e *Engine) norm2OfSums(o *Optimizer) (*Array, error) {
	total, err := e.Upload([]float32{0})
	if err != nil {
		return nil, err
	}
	sums := &ferry{e: e, o: o, lists: [][]*Array{o.acc}}
	defer func() { _ = sums.finish() }()
	for _, k := range o.owned(o.all()) {
		if err := sums.expect(k + 1); err != nil {
			return nil, err
		}
		a, err := sums.take([]int{k})
		if err != nil {
			return nil, err
		}
		if total, err = e.addNorm2(total, a[0], nil); err != nil {
			return nil, err
		}
		if err := sums.put([]int{k}, nil); err != nil {
			return nil, err
		}
	}
	if e.shards() {
		return e.total(total)
	}
	return total, nil
}

// apart lists the programs of applyApart.
func (e *Engine) apart(o *Optimizer) (jobs []func() (*program, error)) {
	seen := map[string]bool{}
	for _, name := range o.names {
		shape := o.params.Get(name).shape
		kept := shape
		shape.DType = dtypes.Float32
		if seen[shape.String()] {
			continue
		}
		seen[shape.String()] = true
		jobs = append(jobs, func() (*program, error) { return e.updateProgram(o, formOf([]shapes.Shape{shape}, argWhole)) })
		if e.shards() && e.group.programs() && !e.alone() {
			jobs = append(jobs, func() (*program, error) { return e.publication([]shapes.Shape{kept}) })
		}
	}
	return jobs
}
