package train

import (
	"fmt"

	"fewstep/engine"
)

// Several devices train together by going through every phase at once, each with an engine of its own and with its part of
// every micro-batch: the samples are numbered, and all randomness follows from their numbers, so that nothing but the order
// of sums depends on how many devices there are. The first device of a process leads the others.

// checkDevices says whether the micro-batch falls into equal parts.
func (r *Run) checkDevices() error {
	if n := r.opt.Devices; n > 1 {
		if have := int(r.opt.Backend.NumDevices()); n > have {
			return fmt.Errorf("%d devices are asked for, and this process drives %d; choose fewer", n, have)
		}
	}
	if n, batch := r.devices(), r.Config.Train.Batch; batch%n != 0 {
		return Indivisible(batch, n)
	}
	return nil
}

// Engines are those of this process's devices; the first leads. There are none before Walk.
func (r *Run) Engines() []*engine.Engine { return r.group.Engines() }

// devices is the number of devices that train together, over all processes.
func (r *Run) devices() int { return max(r.opt.Devices, 1) * r.nodes() }

// Indivisible is the error of a micro-batch that so many devices cannot share.
func Indivisible(batch, devices int) error {
	return fmt.Errorf("train.batch is %d, and %d devices take equal parts of it: choose a multiple of %d, or other --devices", batch, devices, devices)
}

// together runs f for the phase on every device at once.
func (p *phase) together(f func(*phase) error) error {
	if len(p.peers) == 0 {
		return f(p)
	}
	return p.group.Together(func(rank int) error {
		if rank == 0 {
			return f(p)
		}
		return f(p.peers[rank-1])
	})
}
