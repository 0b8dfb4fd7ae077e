package train

import (
	"math"

	"fewstep/distill/program"
	"fewstep/train/monitor"
)

// gapSquare is the mean square of the pairs' gaps, until pairs has made their standard error of it.
const gapSquare = "gap_square"

// pairNames are the values of a discriminator's update: its loss, then its statistics in the program's order.
var pairNames = func() []string {
	names := make([]string, 1+program.DiscriminatorStatistics)
	names[0] = monitor.LossD
	for i, name := range map[int]string{program.StatAccuracy: monitor.Accuracy, program.StatPaired: monitor.Paired,
		program.StatGap: monitor.Gap, program.StatGapSquare: gapSquare, program.StatR1: monitor.R1} {
		names[1+i] = name
	}
	return names
}()

// pairs turns the gaps' mean square over n samples into the standard error of their mean, which takes two samples, and
// takes the penalty of a weight out of the loss.
func pairs(values monitor.Values, n int, r1 float64) {
	values[monitor.LossD] -= r1 * values[monitor.R1]
	square, gap := values[gapSquare], values[monitor.Gap]
	delete(values, gapSquare)
	if n > 1 {
		values[monitor.GapError] = math.Sqrt(max(square-gap*gap, 0) / float64(n-1))
	}
}

// count counts an update that is queued, into its values too. Where the student moved they have its rate.
func (p *phase) count(values monitor.Values) {
	if _, moved := values[monitor.LR]; moved {
		p.moved++
	}
	if p.critic != nil {
		values[monitor.StudentUpdates], values[monitor.DiscriminatorUpdates] = float64(p.moved), float64(p.updates+1)
	}
}

// summary tells what the phase's training amounted to, and the log where that is next to nothing.
func (p *phase) summary() monitor.Summary {
	s := monitor.Summary{Updates: p.updates, StudentUpdates: p.moved, Paired: p.gate.Accuracy}
	if p.critic != nil {
		s.DiscriminatorUpdates, s.DiscriminatorSteps = p.updates, p.optD.Steps
	}
	if s.StudentUpdates < monitor.FewUpdates {
		p.opt.Log.Warn("the phase's student hardly moved: its model is nearly the one that it started from",
			"stage", p.step.StageName, "phase", p.step.PhaseName, "student updates", s.StudentUpdates, "updates", s.Updates)
	}
	return s
}
