package distill

import (
	"fewstep/configs"
	"fmt"
)

// Batch holds what one distillation step needs per sample besides tensors.
// Pairs (A, B) are the coefficients of a·x + b·u, applied per sample.
type Batch struct {
	T, TNext []int // t and t'

	InputA, InputB     []float64  // x_t of x0 and ε (1), pure noise at T
	Teacher            []WalkCall // the teacher's calls to x_{t'}; none for x0
	StudentA, StudentB []float64  // x̂_{t'} of x_t and û (5); for x0 (0, 1), û itself
	TargetA, TargetB   []float64  // x0 phases: the target of x_t and the frozen output (29); nil otherwise

	// What the discriminator sees of real and fake: at ViewT, v = a·x_{t'} + b·ε*.
	// Without noise levels that is x_{t'} itself at t': a = 1, b = 0.
	ViewT        []int
	ViewA, ViewB []float64
}

// Sampler draws the batches of one phase. It has no state: a sample is the same
// in whatever batch it comes.
type Sampler struct {
	schedule  *Schedule
	step      Step
	seed      uint64
	timesteps []int
	levels    []int
	weights   []float64
}

// NewSampler returns the sampler of a phase of the recipe's ladder. The errors
// are those of [configs.Recipe.CheckTimesteps] that concern it.
func NewSampler(s *Schedule, c *configs.Recipe, step Step) (*Sampler, error) {
	if step.Kind == configs.KindMerge {
		return nil, fmt.Errorf("stage %q, phase %q trains nothing and draws no batches", step.StageName, step.PhaseName)
	}
	stage := &c.Stages[step.Stage]
	timesteps, err := StudentTimesteps(s, step.StudentSteps, stage.Timesteps)
	if err != nil {
		return nil, fmt.Errorf("stage %q: %w", step.StageName, err)
	}
	p := &Sampler{schedule: s, step: step, seed: c.Seed, timesteps: timesteps}
	if step.Kind == configs.KindAdversarial {
		p.levels, p.weights = stage.NoiseLevels, stage.LevelWeights(&stage.Phases[step.Phase])
		for _, t := range p.levels {
			if t < 1 || t > s.T() {
				return nil, fmt.Errorf("stage %q: discriminator noise level %d; timesteps run from 1 to %d", step.StageName, t, s.T())
			}
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
	if p.step.TeacherSteps > 0 {
		for _, t := range p.timesteps {
			calls = max(calls, len(TeacherWalk(p.schedule, t, StudentNext(p.schedule, p.step.StudentSteps, t), p.step.TeacherSteps))-1)
		}
	}
	return calls
}

// Batch draws the n samples from the sample index first on (see
// [Ladder.Position]).
func (p *Sampler) Batch(first int64, n int) (*Batch, error) {
	s := p.schedule
	b := &Batch{T: make([]int, n), TNext: make([]int, n), ViewT: make([]int, n)}
	for _, c := range []*[]float64{&b.InputA, &b.InputB, &b.StudentA, &b.StudentB, &b.ViewA, &b.ViewB} {
		*c = make([]float64, n)
	}
	if p.step.Kind == configs.KindX0 {
		b.TargetA, b.TargetB = make([]float64, n), make([]float64, n)
	}
	for i := range n {
		sample := first + int64(i)
		t := p.timesteps[Pick(len(p.timesteps), p.seed, Timestep, sample, 0)]
		next := StudentNext(s, p.step.StudentSteps, t)
		b.T[i], b.TNext[i] = t, next
		b.InputA[i], b.InputB[i] = s.ForwardCoefficients(t)
		if p.step.Kind == configs.KindX0 {
			b.TargetA[i], b.TargetB[i] = s.X0Coefficients(p.step.Teacher.Prediction, t)
			b.StudentB[i] = 1
		} else {
			b.StudentA[i], b.StudentB[i] = s.MoveCoefficients(p.step.Prediction, t, next)
		}
		level, err := DiscriminatorLevel(p.levels, p.weights, p.seed, sample)
		if err != nil {
			return nil, fmt.Errorf("stage %q, phase %q: %w", p.step.StageName, p.step.PhaseName, err)
		}
		b.ViewT[i], b.ViewA[i], b.ViewB[i] = DiscriminatorView(s, next, level)
	}
	if p.step.TeacherSteps > 0 {
		var err error
		if b.Teacher, err = BatchWalk(s, p.step.Teacher.Prediction, b.T, b.TNext, p.step.TeacherSteps); err != nil {
			return nil, fmt.Errorf("stage %q, phase %q: %w", p.step.StageName, p.step.PhaseName, err)
		}
	}
	return b, nil
}
