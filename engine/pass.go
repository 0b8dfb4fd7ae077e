package engine

import (
	"fmt"
	"maps"

	"fewstep/model/nn"
)

// Pass is a forward pass that keeps what its gradient needs, block by block, so that its output can be used before there is a
// loss. (The discriminator is trained on the student's sample before the student is.) The networks of a pass must not change
// until Continue. The caller of Record frees the pass.
type Pass struct {
	tape   *tape
	output *tapeValue
}

// Record evaluates a function of one output, remembering it for Continue, which may then train what o holds of a network.
// It needs a granularity below network: coarser programs keep nothing between forward and gradient.
func (e *Engine) Record(f Function, bind Bind, network string, o *Optimizer, in ...*Array) (*Pass, error) {
	if e.Granularity >= nn.Network {
		return nil, fmt.Errorf("function %q: at granularity network a forward pass cannot be kept for its gradient", f.Key)
	}
	t := &tape{e: e, bind: bind, level: e.Granularity, network: network, o: o}
	if err := e.planFor(t, f, passing{updates: o.ClipNorm == 0}, in); err != nil {
		return nil, err
	}
	outputs, err := t.walk(f, valuesOf(in))
	if err != nil {
		return nil, err
	}
	if len(outputs) != 1 || !outputs[0].needs {
		return nil, fmt.Errorf("function %q: it has %d outputs; a pass has one, through which a gradient flows", f.Key, len(outputs))
	}
	return &Pass{tape: t, output: outputs[0]}, nil
}

// Output is what the recorded function gave; it is the pass's.
func (p *Pass) Output() *Array { return p.output.array }

// Free drops the pass, continued or not.
func (p *Pass) Free() {
	for i := len(p.tape.entries) - 1; i >= 0; i-- {
		for _, v := range p.tape.entries[i].in {
			v.held--
			v.release()
		}
	}
	p.tape.entries = nil
	p.output.array.Free()
}

// Continue is Train for the loss f, whose first input is the pass's output, through both. Gradients of several micro-batches
// are not added up.
func (e *Engine) Continue(p *Pass, f Function, lr float64, in ...*Array) (*Result, error) {
	t := p.tape
	visits := maps.Clone(t.plan.visits) // of the pass; the plan becomes f's
	all := append([]*Array{p.Output()}, in...)
	if err := e.planFor(t, f, passing{updates: t.o.ClipNorm == 0, through: true}, all); err != nil {
		return nil, err
	}
	for site, n := range t.plan.visits {
		visits[site] += n
	}
	outputs, err := t.walk(f, append([]*tapeValue{p.output}, valuesOf(in)...))
	if err != nil {
		return nil, err
	}
	return e.meant(e.finishTape(t, f, visits, outputs, Step{LR: lr}))
}
