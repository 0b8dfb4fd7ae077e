package distill

import (
	"fmt"
	"slices"

	"fewstep/configs"
)

// Batch holds what one distillation step needs per sample besides tensors.
// Pairs (A, B) are the coefficients of a·x + b·u, applied per sample.
type Batch struct {
	T, TNext []int // t and t'

	InputA, InputB     []float64  // x_t of x0 and ε (1), pure noise at T
	Teacher            []WalkCall // the teacher's calls to x_{t'}; none where it has no steps
	Guidance           []float64  // of these calls; nil = none
	StudentA, StudentB []float64  // x̂_{t'} of x_t and û (5)

	Columns []Column      // what the phase's method adds, in its order
	Noises  []NoiseColumn // likewise
}

// Column is a number for each sample: a network's index of the timestep At, or a
// value.
type Column struct {
	Name   string
	At     []int
	Values []float64
}

// NoiseColumn is latents of normal numbers for each sample, drawn for a purpose; of
// silent samples they are zeros.
type NoiseColumn struct {
	Name    string
	Purpose Purpose
	Silent  []bool // nil = none is
}

// Sampler draws the batches of one phase. It has no state: a sample is the same
// in whatever batch it comes.
type Sampler struct {
	Schedule *Schedule
	Step     Step
	Stage    *configs.Stage // of the step
	Seed     uint64
	R1       float64 // weight of the discriminator's penalty; 0 = none

	timesteps []int
	stride    int // a sample's interval is T over this
}

// NewSampler returns the sampler of a phase of the recipe's ladder. The errors
// are those of [configs.Recipe.CheckTimesteps] that concern it.
func NewSampler(s *Schedule, c *configs.Recipe, step Step) (*Sampler, error) {
	if !step.Trains() {
		return nil, fmt.Errorf("stage %q, phase %q trains nothing and draws no batches", step.StageName, step.PhaseName)
	}
	p := &Sampler{Schedule: s, Step: step, Stage: &c.Stages[step.Stage], Seed: c.Seed, R1: c.Discriminator.R1, stride: step.StudentSteps}
	var err error
	if step.Method().Strides {
		p.stride = step.TeacherSteps
		if p.timesteps = s.Grid(p.stride); p.timesteps == nil {
			err = fmt.Errorf("teacher of %d steps; 1 to %d are possible", p.stride, s.T())
		}
	} else {
		p.timesteps, err = StudentTimesteps(s, p.stride, p.Stage.Timesteps)
	}
	if err != nil {
		return nil, fmt.Errorf("stage %q: %w", step.StageName, err)
	}
	for _, t := range p.Stage.NoiseLevels {
		if step.Method().Critic && (t < 1 || t > s.T()) {
			return nil, fmt.Errorf("stage %q: discriminator noise level %d; timesteps run from 1 to %d", step.StageName, t, s.T())
		}
	}
	return p, nil
}

// Timesteps returns where the student trains; the caller must not change it.
func (p *Sampler) Timesteps() []int { return p.timesteps }

// Calls is the largest number of teacher calls of any batch, each two network
// calls under guidance.
func (p *Sampler) Calls() int {
	calls := 0
	if p.Step.TeacherSteps > 0 {
		for _, t := range p.timesteps {
			calls = max(calls, len(TeacherWalk(p.Schedule, t, StudentNext(p.Schedule, p.stride, t), p.Step.TeacherSteps))-1)
		}
	}
	return calls
}

// Batch draws the n samples from the sample index first on (see
// [Ladder.Position]).
func (p *Sampler) Batch(first int64, n int) (*Batch, error) {
	s := p.Schedule
	b := &Batch{T: make([]int, n), TNext: make([]int, n)}
	for _, c := range []*[]float64{&b.InputA, &b.InputB, &b.StudentA, &b.StudentB} {
		*c = make([]float64, n)
	}
	for i := range n {
		t := p.timesteps[Pick(len(p.timesteps), p.Seed, Timestep, first+int64(i), 0)]
		next := StudentNext(s, p.stride, t)
		b.T[i], b.TNext[i] = t, next
		b.InputA[i], b.InputB[i] = s.ForwardCoefficients(t)
		b.StudentA[i], b.StudentB[i] = s.MoveCoefficients(p.Step.Prediction, t, next)
	}
	if p.Step.TeacherSteps > 0 {
		var err error
		if b.Teacher, err = BatchWalk(s, p.Step.Teacher.Prediction, b.T, b.TNext, p.Step.TeacherSteps); err != nil {
			return nil, fmt.Errorf("stage %q, phase %q: %w", p.Step.StageName, p.Step.PhaseName, err)
		}
	}
	if p.Step.Guidance > 1 {
		b.Guidance = slices.Repeat([]float64{p.Step.Guidance}, n)
	}
	return b, nil
}
