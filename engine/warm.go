package engine

import (
	"slices"

	"fewstep/model/nn"

	"github.com/gomlx/compute/shapes"
)

// Shapes makes parameters without content, as Load would make them, to compile programs before there is anything to run
// them on.
func (e *Engine) Shapes(specs []nn.Spec, trained func(name string) bool) *Params {
	p := NewParams(specs)
	for _, s := range specs {
		ours := trained != nil && trained(s.Name)
		p.Set(s.Name, e.keeps(s, ours), ours)
	}
	return p
}

// Input is an array without content, for the same purpose.
func Input(s shapes.Shape) *Array { return &Array{shape: s} }

// Warm compiles what Call needs for a function. Any number of goroutines may warm different functions at once, while
// others run.
func (e *Engine) Warm(f Function, bind Bind, in ...*Array) error {
	if e.calls() < nn.Network {
		return e.planFor(&tape{e: e, bind: bind, level: e.calls()}, f, passing{}, in)
	}
	p, err := e.callProgram(f, bind, in)
	return e.warmed(p, err)
}

// WarmTrain is Warm for Train: the parameters that bind holds for the network say what is trained, settings how, and
// micro how many micro-batches make a step.
func (e *Engine) WarmTrain(f Function, bind Bind, network string, settings Adam, micro int, in ...*Array) error {
	params := bind[network]
	if e.Granularity < nn.Network {
		t := &tape{e: e, bind: bind, level: e.Granularity, network: network, o: e.emptyOptimizer(settings, params)}
		return e.planFor(t, f, passing{updates: micro <= 1 && settings.ClipNorm == 0}, in)
	}
	if e.Split {
		p, err := e.splitProgram(f, bind, network, slices.Clone(params.Targets()), in)
		return e.warmed(p, err)
	}
	o := e.emptyOptimizer(settings, params)
	var trained []shapes.Shape
	for _, name := range o.names {
		trained = append(trained, params.Get(name).shape)
	}
	var state []*Array
	for _, s := range o.stateShapes(trained) {
		state = append(state, Input(s))
	}
	o.setState(state)
	if !e.fuses(micro) {
		p, err := e.gradientProgram(f, bind, network, o, in)
		return e.warmed(p, err)
	}
	p, err := e.fusedProgram(f, bind, network, o, in)
	return e.warmed(p, err)
}

func (e *Engine) warmed(p *program, err error) error {
	if err != nil {
		return err
	}
	e.compile(p, e.device)
	return p.err
}
