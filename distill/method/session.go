package method

import (
	"fmt"
	"iter"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"

	"github.com/gomlx/compute/shapes"
)

// Session is a phase while it runs, on one device: its networks by role, their optimizers and the samples so far. A device
// may be one that computes nothing, to plan memory or to compile ahead.
type Session struct {
	*Networks
	Method  Method
	Step    distill.Step
	Phase   *configs.Phase // of the step
	Sampler *distill.Sampler
	Source  Source
	Gate    distill.Gate

	Rank, Devices int   // of this device, and how many train together
	Done          int64 // samples of the phase that were trained on

	Programs  *program.Functions // of what is trained
	ofTeacher *program.Functions
	params    map[Role]*engine.Params
	optimizer map[Role]*engine.Optimizer
	free      func() // the teacher
	shapes    []shapes.Shape
	empty     []*engine.Array // the empty prompt's conditions, once they are wanted

	Results []Result // what the update queued
	Moved   bool     // the update moves the student, ...
	Rate    float64  // ... at this learning rate

	// Part, if not nil, is told that a part of the update is queued: waiting for data, or what is done for a role. wait, if
	// not nil, is a result of it.
	Part func(what Role, wait *engine.Array) error

	// Go, if not nil, is asked again and again whether the update goes on, as long as leaving it loses nothing but the work: no
	// network has been updated yet, only gradients of some micro-batches added up, which the next update begins anew. Its error
	// ends the update. All devices ask equally often.
	Go      func() error
	applied bool // the update has changed a network
}

// Data stands for waiting for samples, as a part of an update.
const Data Role = "data"

// Result is a training call of an update, with the names of its outputs' numbers.
type Result struct {
	*engine.Result
	Role  Role
	Names []string
}

// New makes the session of a phase. one are the shapes of the denoiser's inputs for one sample.
func New(n *Networks, m Method, schedule *distill.Schedule, step distill.Step, one []shapes.Shape) (*Session, error) {
	s := &Session{Networks: n, Method: m, Step: step, Phase: &n.Recipe.Stages[step.Stage].Phases[step.Phase], Devices: 1,
		params: map[Role]*engine.Params{}, optimizer: map[Role]*engine.Optimizer{}, shapes: one}
	var err error
	if s.Sampler, err = distill.NewSampler(schedule, n.Recipe, step); err != nil {
		return nil, err
	}
	_, _, err = n.Specs()
	return s, err
}

// On says that so many devices train together, of which this is one.
func (s *Session) On(rank, devices int) {
	s.Rank, s.Devices = rank, devices
	all := make([]shapes.Shape, len(s.shapes))
	for i, one := range s.shapes {
		all[i] = one.Clone()
		all[i].Dimensions[0] = s.Samples()
	}
	s.shapes = all
}

// Samples is the size of the device's part of a micro-batch.
func (s *Session) Samples() int { return s.Recipe.Train.Batch / s.Devices }

// First is the first sample of the device's part of the update's micro-batch i.
func (s *Session) First(i int) int64 {
	return s.Step.First + s.Done + int64(i*s.Recipe.Train.Batch+s.Rank*s.Samples())
}

// Load puts the phase's networks on the device.
func (s *Session) Load() (err error) {
	d := s.Discriminator()
	if s.Engine.Split {
		d.LoRA = nil // it is materialised
	}
	s.Programs = &program.Functions{Denoiser: s.Denoiser, Disc: d}
	s.ofTeacher = &program.Functions{Denoiser: s.Denoiser}
	if s.Step.Target == configs.TargetLoRA && !s.Engine.Split {
		s.Programs.LoRA = s.Adapters()
	}
	if s.besideBase(s.Step.Teacher) {
		s.ofTeacher.LoRA = s.Adapters()
	}
	if !s.usesBase(s.Step) {
		s.Networks.Free() // the base's place is needed
	}
	if s.params[Student], err = s.student(s.Step); err != nil {
		return err
	}
	if s.params[Teacher], s.free, err = s.teacher(s.Step.Teacher); err != nil {
		return err
	}
	if s.Step.Method().Critic {
		s.params[Discriminator], err = s.discriminator(s.Step)
	}
	return err
}

// Optimize makes the optimizers of what is trained.
func (s *Session) Optimize() (err error) {
	for _, role := range s.Trained() {
		if s.optimizer[role], err = s.Engine.NewOptimizer(s.adam(role), s.params[role]); err != nil {
			return err
		}
	}
	return nil
}

// adam is a role's optimizer, with random bits of its own for the rounding of moments.
func (s *Session) adam(role Role) engine.Adam {
	t := s.Recipe.Train
	a := engine.Adam{Beta1: s.Phase.Beta1, Beta2: s.Phase.Beta2, Eps: t.AdamEpsilon, ClipNorm: t.ClipNorm, Moments: ComputeTypes[t.Moments],
		Seed: s.Recipe.Seed ^ uint64(distill.NumberOf(s.Step.StageName+"/"+s.Step.PhaseName+"/"+string(role)))}
	if role == Student {
		a.WeightDecay, a.EMA = s.Phase.WeightDecay, max(t.EMA, s.Phase.TargetEMA)
	} else {
		a.WeightDecay = s.Phase.DiscriminatorWeightDecay
	}
	return a
}

// Trained are the roles whose networks are trained.
func (s *Session) Trained() []Role {
	if s.params[Discriminator] == nil {
		return []Role{Student}
	}
	return []Role{Student, Discriminator}
}

// Params is a role's network, nil where the phase has none.
func (s *Session) Params(role Role) *engine.Params { return s.params[role] }

// Optimizer is that of a role whose network is trained.
func (s *Session) Optimizer(role Role) *engine.Optimizer { return s.optimizer[role] }

// Free gives the phase's networks, optimizers and results back, not the base.
func (s *Session) Free() {
	s.Forget()
	for role, o := range s.optimizer {
		s.params[role].FreeTrained()
		o.Free()
		delete(s.optimizer, role)
	}
	for role, p := range s.params {
		if role != Teacher && p != nil { // nil = loading it has failed
			p.FreeTrained()
		}
		delete(s.params, role)
	}
	if s.free != nil {
		s.free()
	}
	engine.Free(s.empty...)
	s.empty = nil
}

// Forget drops the results of an update, read or not.
func (s *Session) Forget() {
	for _, r := range s.Results {
		r.Free()
	}
	s.Results = nil
}

// Update queues one update of what is trained.
func (s *Session) Update() error {
	s.Results, s.Moved, s.applied = nil, false, false
	return s.Method.Update(s)
}

// goOn asks whether the update goes on.
func (s *Session) goOn() error {
	if s.Go == nil || s.applied {
		return nil
	}
	return s.Go()
}

// Batch is a micro-batch of an update, with what the teacher makes of it.
type Batch struct {
	*Inputs
	Target *engine.Array // x_{t'} by the teacher ("real"), or whatever its calls lead to
}

// Batches takes the update's micro-batches and makes the teacher's calls for each. Whoever takes them frees them.
func (s *Session) Batches() (out []Batch, err error) {
	defer func() {
		if err != nil {
			Release(out)
			out = nil
		}
	}()
	walked := map[int]bool{}
	for i := range s.Micros() {
		walked[i] = true
	}
	for i := range s.Recipe.Train.Accumulate {
		if err := s.goOn(); err != nil {
			return out, err
		}
		in, err := s.Source.Take(s.First(i))
		if err != nil {
			return out, err
		}
		out = append(out, Batch{Inputs: in})
		if err := s.part(Data, nil); err != nil {
			return out, err
		}
		if !walked[i] {
			out[i].Target = s.Engine.Blank(in.X.Shape())
			continue
		}
		if out[i].Target, err = s.Teach(in); err != nil {
			return out, fmt.Errorf("the teacher's call: %w", err)
		}
		if err := s.part(Teacher, out[i].Target); err != nil {
			return out, err
		}
	}
	s.Source.Wait()
	return out, s.part(Data, nil)
}

// Release frees micro-batches.
func Release(batches []Batch) {
	for _, b := range batches {
		b.Free()
		b.Target.Free()
	}
}

// Micros yields the numbers of an update's micro-batches to train on. Where arrays have no content it yields the first and the
// last alone: those between would take what the first takes.
func (s *Session) Micros() iter.Seq[int] {
	of := s.Recipe.Train.Accumulate
	return func(yield func(int) bool) {
		for i := 0; i < of; i++ {
			if s.Engine.Hollow() && i > 0 {
				i = of - 1
			}
			if !yield(i) {
				return
			}
		}
	}
}

// Teach makes the teacher's calls, from x_t on. Where arrays have no content two stand for all.
func (s *Session) Teach(in *Inputs) (*engine.Array, error) {
	x, calls := in.X, in.Teacher
	if s.Engine.Hollow() {
		calls = calls[:min(len(calls), 2)]
	}
	for _, c := range calls {
		next, err := s.ofTeacher.Move(s.Engine, s.params[Teacher], in.At(x, c.T), c.A, c.B, in.Guidance)
		if x != in.X {
			x.Free()
		}
		if err != nil {
			return nil, err
		}
		x = next
	}
	return x, nil
}

// Target is the student's average over its updates, for calls, where the phase keeps one; else the student itself.
func (s *Session) Target() (params *engine.Params, free func(), err error) {
	if s.Phase.TargetEMA == 0 {
		return s.params[Student], func() {}, nil
	}
	params, err = s.Engine.AverageParams(s.optimizer[Student])
	if err != nil {
		return nil, nil, err
	}
	return params, params.FreeTrained, nil
}

// Bind names the parameters of the networks that are trained for programs.
func (s *Session) Bind() engine.Bind {
	bind := engine.Bind{program.NetDenoiser: s.params[Student]}
	if p := s.params[Discriminator]; p != nil {
		bind[program.NetDisc] = p
	}
	return bind
}

// network is a role's name in programs.
func network(role Role) string {
	if role == Discriminator {
		return program.NetDisc
	}
	return program.NetDenoiser
}

// Train differentiates a loss by a role's network over micro-batch i and, with the last one, updates the network. Its
// outputs' numbers are reported by these names.
func (s *Session) Train(role Role, loss engine.Function, i int, names []string, in ...*engine.Array) error {
	if err := s.goOn(); err != nil {
		return err
	}
	res, err := s.Engine.Train(loss, s.Bind(), network(role), s.optimizer[role], s.StepOf(role, i), in...)
	return s.Keep(role, res, err, names...)
}

// StepOf is micro-batch i's part of an update of a role's network.
func (s *Session) StepOf(role Role, i int) engine.Step {
	done, of := s.Step.RateAt(s.Done)
	rate := s.Phase.DiscriminatorRate(done, of)
	if role == Student {
		rate = s.Phase.StudentRate(done, of)
		s.Moved, s.Rate = true, rate
	}
	s.applied = s.applied || i+1 == s.Recipe.Train.Accumulate
	return engine.Step{LR: rate, Micro: i, Of: s.Recipe.Train.Accumulate}
}

// Keep keeps the result of a training call until its numbers are read.
func (s *Session) Keep(role Role, res *engine.Result, err error, names ...string) error {
	if err != nil {
		return err
	}
	s.Results = append(s.Results, Result{res, role, names})
	return s.part(role, res.Outputs[0])
}

// part tells of a part of the update.
func (s *Session) part(what Role, wait *engine.Array) error {
	if s.Part == nil {
		return nil
	}
	return s.Part(what, wait)
}

// Did tells that something was queued for a role, with a result of it.
func (s *Session) Did(role Role, result *engine.Array) error { return s.part(role, result) }

// Latents is a size of latents, in their cells.
type Latents struct{ Height, Width int }

// Rehearse loads the networks and makes updates that move the student, on a device whose arrays have no content: one for latents
// of each size or, where none is given, one for the phase's own.
func (s *Session) Rehearse(sizes ...Latents) error {
	if err := s.Load(); err != nil {
		return err
	}
	if err := s.Optimize(); err != nil {
		return err
	}
	if len(sizes) == 0 {
		sizes = []Latents{{}}
	}
	for _, size := range sizes {
		made := &Made{Session: s, Latents: size}
		s.Source = made
		err := s.Update()
		made.free()
		if err != nil {
			return err
		}
	}
	return nil
}

// StudentMoves says whether the update moves the student: the gate, if the phase has one, is open. A rehearsed update does.
func (s *Session) StudentMoves() bool {
	return s.Engine.Hollow() || s.Gate.StudentMoves(s.Phase, s.Done)
}
