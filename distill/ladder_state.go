package distill

import (
	"errors"
	"fewstep/configs"
	"fmt"
	"iter"
	"maps"
	"slices"
)

// State is a position on the ladder: the phase being worked on and the samples
// it has consumed. All phases done is {Stage: number of stages}.
type State struct {
	Stage   int   `json:"stage"`
	Phase   int   `json:"phase"`
	Samples int64 `json:"samples"`
}

// Event is what happened to a run.
type Event struct {
	Kind    EventKind
	Samples int64 // of Trained: samples consumed by the update
}

// EventKind is the kind of an Event.
type EventKind string

const (
	Trained  EventKind = "trained"  // an optimizer update was done
	Finished EventKind = "finished" // the phase's result is saved: go to the next
)

// Ladder is the state machine of a recipe's stages and phases. It is
// immutable; a run keeps only a [State].
type Ladder struct {
	steps []Step
	end   State
}

// NewLadder returns the ladder of a recipe, with the errors of [Plan].
func NewLadder(c *configs.Recipe, base Prediction) (*Ladder, error) {
	steps, err := Plan(c, base)
	if err != nil {
		return nil, err
	}
	if len(steps) == 0 {
		return nil, errors.New("the ladder has no phases; give it stages, for example stages: lightning")
	}
	return &Ladder{steps: steps, end: State{Stage: len(c.Stages)}}, nil
}

// Steps returns the phases of all stages in order; the caller must not change
// them.
func (l *Ladder) Steps() []Step { return l.steps }

// Start is the state before anything was done.
func (l *Ladder) Start() State {
	return State{Stage: l.steps[0].Stage, Phase: l.steps[0].Phase}
}

// Done reports whether every phase is finished.
func (l *Ladder) Done(s State) bool { return s == l.end }

// index returns the place of the state's phase in steps, or -1.
func (l *Ladder) index(s State) int {
	return slices.IndexFunc(l.steps, func(step Step) bool { return step.Stage == s.Stage && step.Phase == s.Phase })
}

// Step returns the phase a state is in; the error of a state that is done or
// not of this ladder says so.
func (l *Ladder) Step(s State) (Step, error) {
	if l.Done(s) {
		return Step{}, errors.New("the ladder is done; no phase is left")
	}
	i := l.index(s)
	if i < 0 {
		return Step{}, fmt.Errorf("the ladder has no phase %d in stage %d; the state is of another recipe", s.Phase, s.Stage)
	}
	step := l.steps[i]
	if s.Samples < 0 || s.Samples > step.Samples {
		return Step{}, fmt.Errorf("stage %q, phase %q has %d samples, and the state says %d; the state is of another recipe", step.StageName, step.PhaseName, step.Samples, s.Samples)
	}
	return step, nil
}

// Next returns the state after an event. An update may not run past the end of
// its phase, and a phase is finished only with all of its samples done.
func (l *Ladder) Next(s State, e Event) (State, error) {
	step, err := l.Step(s)
	if err != nil {
		return s, err
	}
	left := step.Samples - s.Samples
	where := fmt.Sprintf("stage %q, phase %q", step.StageName, step.PhaseName)
	switch e.Kind {
	case Trained:
		if e.Samples <= 0 || e.Samples > left {
			return s, fmt.Errorf("%s: an update of %d samples with %d left", where, e.Samples, left)
		}
		s.Samples += e.Samples
		return s, nil
	case Finished:
		if left > 0 {
			return s, fmt.Errorf("%s: finished with %d samples left", where, left)
		}
		if i := l.index(s) + 1; i < len(l.steps) {
			return State{Stage: l.steps[i].Stage, Phase: l.steps[i].Phase}, nil
		}
		return l.end, nil
	}
	return s, fmt.Errorf("%s: unknown event %q", where, e.Kind)
}

// Position is the number of samples consumed since the start of the ladder: the
// sample index that [Normal] and its like take.
func (l *Ladder) Position(s State) int64 {
	if i := l.index(s); i >= 0 {
		return l.steps[i].First + s.Samples
	}
	return l.Total()
}

// Total is the number of samples of the whole ladder.
func (l *Ladder) Total() int64 {
	last := l.steps[len(l.steps)-1]
	return last.First + last.Samples
}

func descending(m map[int]Model) iter.Seq[int] {
	keys := slices.Sorted(maps.Keys(m))
	slices.Reverse(keys)
	return slices.Values(keys)
}
