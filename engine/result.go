package engine

import "math"

// Result is what a training call queued: nothing of it waits for the device before it is asked for.
type Result struct {
	Outputs []*Array // the function's outputs; the first is the scalar loss that was differentiated
	Updated bool     // this was the step's last micro-batch: parameters were updated, unless Norm2 is not finite

	e     *Engine
	o     *Optimizer
	norms []*Array // squared norms of parts of the gradient, of a step's last micro-batch
	scale float64  // of the gradient that the norms are of, to the one before clipping
	norm2 float64  // once they were read
}

// updated is the result of a step's last micro-batch, which it counts. It takes the norms.
func (e *Engine) updated(o *Optimizer, outputs, norms []*Array, scale float64) *Result {
	o.Steps++
	return &Result{Outputs: outputs, Updated: true, e: e, o: o, norms: norms, scale: scale}
}

// Norm2 waits for the squared norm of the gradient before clipping; it is -1 before a step's last micro-batch. A step whose norm
// is not finite changed nothing and is not counted. Steps that were queued behind it before the norm was read took it for a
// counted one in their bias correction.
func (r *Result) Norm2() (float64, error) {
	if !r.Updated {
		return -1, nil
	}
	if len(r.norms) == 0 {
		return r.norm2, nil
	}
	total := 0.0
	for _, a := range r.norms {
		v, err := r.e.Floats(a)
		if err != nil {
			return 0, err
		}
		total += float64(v[0])
	}
	Free(r.norms...)
	r.norms = nil
	r.norm2 = total * r.scale * r.scale
	if !finite(r.norm2) {
		r.o.Steps--
	}
	return r.norm2, nil
}

// Free gives back what the result holds on the device, read or not.
func (r *Result) Free() {
	Free(r.Outputs...)
	Free(r.norms...)
	r.norms = nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
