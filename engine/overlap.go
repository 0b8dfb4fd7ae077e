package engine

// Gradients that are added up over the devices while these compute.
//
// A device runs one program after the other, so a reduction that is a program of its own is waited for by the walk back. But
// within a program XLA runs collectives on a stream of their own. So where blocks are updated as the walk goes back, a block's
// gradients are owed: the program that walks back through the next block adds them up beside its own arithmetic, and the block
// is updated after it; with Group.Bucket, when the gradients of several blocks are enough. The numbers are those of a reduction
// apart; what is alive is one block's gradients more, or a bucket's. The last block's
// gradients, and those of several micro-batches, are added up by programs of their own; so are all gradients over several
// processes, whose programs are compiled at every start, and had better be small.

// owed are gradients of blocks that are not added up over the devices yet.
type owed struct {
	blocks [][]int // of each block, the indices of its parameters in the optimizer
	grads  []*Array
}

// overlaps says whether gradients are added up beside the walk back.
func (e *Engine) overlaps() bool { return e.group.programs() && e.group.Overlap }

// bucket is how many bytes of gradients a program waits for; a block's state that comes from the host's memory waits for none.
func (e *Engine) bucket() int64 {
	if e.Offload != 0 {
		return 0
	}
	return e.group.Bucket
}

// owe leaves a block's gradients to a later block's program.
func (w *walker) owe(indices []int, grads []*Array) {
	if w.owed == nil {
		w.owed = &owed{}
	}
	w.owed.blocks = append(w.owed.blocks, indices)
	w.owed.grads = append(w.owed.grads, grads...)
}

// due takes what is owed where it is enough for a program.
func (w *walker) due() *owed {
	o := w.owed
	if o == nil || bytesOfAll(shapesOf(o.grads)) < w.e.bucket() {
		return nil
	}
	w.owed = nil
	return o
}

// settle adds up what is owed by a program of its own, and updates.
func (w *walker) settle() error {
	o := w.owed
	if w.owed = nil; o == nil {
		return nil
	}
	sums, err := w.e.sum(o.grads)
	if err != nil {
		return err
	}
	return w.paid(o, sums)
}

// paid updates the blocks whose gradients are added up now.
func (w *walker) paid(o *owed, sums []*Array) error {
	for _, indices := range o.blocks {
		if err := w.update(indices, sums[:len(indices)]); err != nil {
			return err
		}
		sums = sums[len(indices):]
	}
	return nil
}

// walkBack runs a block's backward program, and returns the sums of other blocks' gradients, which it takes, apart.
func (e *Engine) walkBack(p *program, args []*Array, before *owed) (out, sums []*Array, err error) {
	if before == nil {
		out, err = e.execute(p, args, nil)
		return out, nil, err
	}
	if e.alone() { // there is nothing to add
		out, err = e.execute(p, args, nil)
		return out, before.grads, err
	}
	donate := make([]bool, len(args), len(args)+len(before.grads))
	for range before.grads {
		donate = append(donate, true)
	}
	if out, err = e.join(p, append(args, before.grads...), donate); err != nil {
		return nil, nil, err
	}
	n := len(out) - len(before.grads)
	return out[:n:n], out[n:], nil
}
