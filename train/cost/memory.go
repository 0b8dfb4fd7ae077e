package cost

import (
	"fmt"
	"slices"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Device is what a plan needs to know of the device.
type Device struct {
	Split bool // updates apart from gradients at granularity network, as on CPUs: engine.Engine.Split
	Flash bool // attention without its scores in memory, as CUDA has it for bf16

	Devices int // of this kind that train together, each on its part of a micro-batch; 0 = one
}

// perDevice is the size of a device's part of a micro-batch.
func (d Device) perDevice(c *configs.Recipe) int { return c.Train.Batch / max(d.Devices, 1) }

// Memory is what a phase takes of the device's memory, in bytes.
type Memory struct {
	Weights   int64 `json:"weights"`   // of teacher, student and discriminator
	Optimizer int64 `json:"optimizer"` // moments and averages
	Step      int64 `json:"step"`      // what an update adds at its peak: samples, block inputs, gradients, scratch space
	Total     int64 `json:"total"`
	Arrays    int64 `json:"arrays"` // of Total, without the compiled programs' scratch space, which is estimated

	Host int64 `json:"host"` // of the host's memory, page-locked, beside the device's: offloaded state
}

// MemoryCounts says how Memory is made and what it leaves out.
const MemoryCounts = "one update walked through with arrays that have no content; the programs' scratch space is estimated from their graphs, which is rough at granularity network; " +
	"not counted: the programs' code, text encoders and VAE, which take their turns before and after training, fragmentation; of the host's memory only offloaded state is counted"

// rehearsal is a phase on a dry engine. It goes the way of package train, which tests that it does.
type rehearsal struct {
	e                        *engine.Engine
	c                        *configs.Recipe
	step                     distill.Step
	n                        int            // samples of a micro-batch
	in                       []shapes.Shape // of the denoiser, for a micro-batch
	encodesEmpty             bool           // the empty prompt is encoded, not zeros
	adapters                 *nn.LoRA
	full, lora               []nn.Spec
	base                     *engine.Params
	teacher, student, critic *engine.Params
	f, ofTeacher             *program.Functions
	optS, optD               *engine.Optimizer
}

// alike names what a phase's memory depends on, besides the recipe's settings for all phases.
func alike(c *configs.Recipe, s distill.Step) string {
	p := c.Stages[s.Stage].Phases[s.Phase]
	return fmt.Sprint(s.Kind, s.Target, s.Form, s.Teacher.Full == distill.Base, s.Teacher.LoRA != "", s.Guidance > 1,
		s.TeacherSteps > s.StudentSteps, p.Beta1 > 0, p.WeightDecay > 0, p.DiscriminatorWeightDecay > 0)
}

// dry is an engine with a recipe's settings that runs nothing.
func dry(b compute.Backend, c *configs.Recipe, d Device) *engine.Engine {
	e := engine.Dry(b, ComputeTypes[c.Train.Compute], Levels[c.Train.Granularity])
	e.Calls, e.Frozen = Levels[c.Train.CallGranularity()], ComputeTypes[c.Train.Frozen]
	e.Offload, e.Shard = Offload(c.Train), c.Train.Shard == configs.ShardSharded
	e.Split, e.Flash = d.Split && e.Granularity == nn.Network, d.Flash
	return e
}

// memory rehearses an update of a phase. A phase whose weights and optimizers alone take more than a limit, if it is not
// 0, is not walked through: that they do is then all that Total tells.
func memory(b compute.Backend, c *configs.Recipe, m Model, s distill.Step, d Device, limit int64) (out Memory, err error) {
	e := dry(b, c, d)
	e.Rehearse(d.Devices)
	n := d.perDevice(c)
	r := &rehearsal{e: e, c: c, step: s, n: n, in: m.inputs(c, n), encodesEmpty: m.EncodesEmpty, adapters: &nn.LoRA{Rank: c.LoRA.Rank, Scale: c.LoRA.Scale()}}
	if err = r.networks(b, m); err != nil {
		return out, err
	}
	out.Weights = e.Memory().Live
	if err = r.optimizers(); err != nil {
		return out, err
	}
	out.Optimizer, out.Host = e.Memory().Live-out.Weights, e.Memory().Host
	if out.Total = e.Memory().Live; limit > 0 && out.Total > limit {
		return out, nil
	}
	if err = r.update(); err != nil {
		return out, err
	}
	out.Total, out.Arrays, out.Host = e.Memory().Peak, e.Memory().Held, e.Memory().HostPeak
	out.Step = out.Total - out.Weights - out.Optimizer
	return out, nil
}

// networks puts the phase's three on the device.
func (r *rehearsal) networks(b compute.Backend, m Model) (err error) {
	d := m.discriminator(r.c)
	if r.e.Split {
		d.LoRA = nil // materialised
	}
	r.f, r.ofTeacher = &program.Functions{UNet: m.UNet, Disc: d, R1: program.R1{Weight: r.c.Discriminator.R1, Sigma: r.c.Discriminator.R1Sigma}}, &program.Functions{UNet: m.UNet}
	one := m.inputs(r.c, 1)
	if r.full, err = trace(b, m.UNet.Network("", nil), nil, one); err != nil {
		return err
	}
	if r.lora, err = trace(b, m.UNet.Network("", r.adapters), r.adapters, one); err != nil {
		return err
	}
	s, e := r.step, r.e
	isLoRA := s.Target == configs.TargetLoRA
	overBase := s.Kind == configs.KindAdversarial && r.c.Discriminator.Target == configs.TargetLoRA
	if isLoRA || overBase || s.Teacher.Full == distill.Base && (s.Teacher.LoRA == "" || e.Granularity < nn.Network) {
		r.base = e.BlankParams(r.full, nil)
	}
	switch {
	case s.Teacher.Full == distill.Base && s.Teacher.LoRA == "":
		r.teacher = r.base
	case s.Teacher.Full == distill.Base && e.Granularity < nn.Network:
		r.teacher = r.overBase(r.lora, engine.IsLoRA, false)
		r.ofTeacher.LoRA = r.adapters
	default:
		r.teacher = e.BlankParams(r.full, nil)
	}
	everything := func(string) bool { return true }
	switch {
	case !isLoRA:
		r.student = e.BlankParams(r.full, everything)
	default:
		if !e.Split {
			r.f.LoRA = r.adapters
		}
		r.student, err = r.trainable(r.lora, engine.IsLoRA)
	}
	if err != nil || s.Kind != configs.KindAdversarial {
		return err
	}
	d = m.discriminator(r.c)
	specs, err := trace(b, d.Network("", discriminator.Form(s.Form)), d.LoRA, one, d.Backbone("").Kind, d.Head("").Kind)
	switch {
	case err != nil:
	case overBase:
		r.critic, err = r.trainable(specs, d.Trains)
	default:
		r.critic = e.BlankParams(specs, everything)
	}
	return err
}

func (r *rehearsal) trainable(specs []nn.Spec, own func(name string) bool) (*engine.Params, error) {
	p := r.overBase(specs, own, true)
	if r.e.Split {
		return p, r.e.Materialise(p, *r.adapters)
	}
	return p, nil
}

// overBase is a network over the base's weights with tensors of its own, such as adapters.
func (r *rehearsal) overBase(specs []nn.Spec, own func(name string) bool, trained bool) *engine.Params {
	var fresh []nn.Spec
	for _, s := range specs {
		if own(s.Name) {
			fresh = append(fresh, s)
		}
	}
	owned := r.e.BlankParams(fresh, func(string) bool { return trained })
	p := engine.NewParams(specs)
	for _, s := range specs {
		if a := owned.Get(s.Name); a != nil {
			p.Set(s.Name, a, trained)
		} else {
			p.Set(s.Name, r.base.Get(s.Name), false)
		}
	}
	return p
}

func (r *rehearsal) optimizers() (err error) {
	t := r.c.Train
	p := r.c.Stages[r.step.Stage].Phases[r.step.Phase]
	adam := engine.Adam{Beta1: p.Beta1, Beta2: p.Beta2, Eps: t.AdamEpsilon, WeightDecay: p.WeightDecay, ClipNorm: t.ClipNorm,
		Moments: ComputeTypes[t.Moments]}
	if r.critic != nil {
		adam := adam
		adam.WeightDecay = p.DiscriminatorWeightDecay
		if r.optD, err = r.e.NewOptimizer(adam, r.critic); err != nil {
			return err
		}
	}
	adam.EMA = t.EMA
	r.optS, err = r.e.NewOptimizer(adam, r.student)
	return err
}

// Drawing is the device memory that a run's sample sheets take between phases: the base, a phase's model beside it, and a
// guided step of eval.batch pictures. 0 where the recipe wants no sheets.
func Drawing(b compute.Backend, c *configs.Recipe, m Model, d Device) (int64, error) {
	if c.Eval.SheetSamples == 0 && len(c.Eval.SheetPrompts) == 0 {
		return 0, nil
	}
	specs, err := trace(b, m.UNet.Network("", nil), nil, m.inputs(c, 1))
	if err != nil {
		return 0, err
	}
	e := dry(b, c, d)
	e.BlankParams(specs, nil) // the base
	r := &rehearsal{e: e, encodesEmpty: m.EncodesEmpty, ofTeacher: &program.Functions{UNet: m.UNet}, teacher: e.BlankParams(specs, nil)}
	r.step.Guidance = c.Eval.Guidance
	var in []*engine.Array
	for _, s := range m.inputs(c, c.Eval.Batch) {
		in = append(in, e.Blank(s))
	}
	_, err = r.target(in, func() *engine.Array { return e.Blank(in[1].Shape()) })
	return e.Memory().Peak, err
}

// update is one optimizer step. Of its micro-batches the first and the last are walked through, and all are there.
func (r *rehearsal) update() error {
	column := func() *engine.Array { return r.e.Blank(shapes.Make(dtypes.Float32, r.n)) }
	of := r.c.Train.Accumulate
	var real *engine.Array
	var call []*engine.Array
	for i := range of {
		call = nil
		for k, s := range r.in {
			if k != 1 { // timesteps come with the calls
				call = append(call, r.e.Blank(s))
			} else {
				call = append(call, nil)
			}
		}
		if i > 0 {
			real = r.e.Blank(r.in[0])
			continue
		}
		var err error
		if real, err = r.target(call, column); err != nil {
			return err
		}
	}
	r.next(column)
	micros := []int{0}
	if of > 1 {
		micros = append(micros, of-1)
	}
	bind := engine.Bind{program.NetUNet: r.student, program.NetDisc: r.critic}
	train := func(f engine.Function, network string, o *engine.Optimizer, micro int, more ...*engine.Array) error {
		res, err := r.e.Train(f, bind, network, o, engine.Step{LR: 1, Micro: micro, Of: of}, append(append([]*engine.Array{}, call...), more...)...)
		if err == nil {
			res.Free()
		}
		return err
	}
	call[1] = column()
	a, b := column(), column()
	if r.critic == nil {
		for _, i := range micros {
			if err := train(r.f.MSE(), program.NetUNet, r.optS, i, a, b, real); err != nil {
				return err
			}
		}
		return nil
	}
	form := discriminator.Form(r.step.Form)
	view := []*engine.Array{column(), r.e.Blank(r.in[0]), column(), column()}
	shown := view
	if r.f.R1.Weight > 0 {
		shown = append(slices.Clone(view), r.e.Blank(r.in[0]))
	}
	for range of - 1 { // the others' noise
		for range len(shown) - len(view) + 1 {
			r.e.Blank(r.in[0])
		}
	}
	fakes := make([]*program.Fake, len(micros))
	for k, i := range micros {
		var err error
		if fakes[k], err = r.f.Fake(r.e, bind, r.optS, of, call, a, b); err != nil {
			return err
		}
		if err := train(r.f.Discriminator(form), program.NetDisc, r.optD, i, append([]*engine.Array{real, fakes[k].Sample}, shown...)...); err != nil {
			return err
		}
		fakes[k].Shown()
	}
	for k, i := range micros {
		res, err := r.f.GeneratorStep(r.e, bind, r.optS, engine.Step{LR: 1, Micro: i, Of: of}, form, fakes[k], call, a, b, view)
		if err != nil {
			return err
		}
		res.Free()
		fakes[k].Free()
	}
	return nil
}

// next is what the device holds of the next update while this one's networks are trained: its first micro-batch.
func (r *rehearsal) next(column func() *engine.Array) {
	for _, s := range r.in {
		r.e.Blank(s)
	}
	for range 2 { // the student's coefficients
		column()
	}
	if r.critic != nil {
		r.e.Blank(r.in[0]) // the view
		for range 3 {
			column()
		}
	}
}

// target is the teacher's part.
func (r *rehearsal) target(in []*engine.Array, column func() *engine.Array) (*engine.Array, error) {
	s := r.step
	walk := 1
	if s.Kind != configs.KindX0 {
		walk = min(max(s.TeacherSteps/max(s.StudentSteps, 1), 1), 2) // more of them take no more memory
	}
	var guidance *program.Guidance
	if s.Guidance > 1 && s.Kind != configs.KindX0 {
		guidance = &program.Guidance{Scale: column()}
		if r.encodesEmpty {
			for i, t := range r.ofTeacher.UNet.Conditions(1) {
				if t.Caption {
					guidance.Empty = append(guidance.Empty, r.e.Blank(in[family.Given+i].Shape()))
				}
			}
		}
	}
	x := in[0]
	for range walk {
		call := append([]*engine.Array{x, column()}, in[2:]...)
		next, err := r.ofTeacher.Move(r.e, r.teacher, call, column(), column(), guidance)
		if err != nil {
			return nil, fmt.Errorf("the teacher's call: %w", err)
		}
		if x != in[0] {
			x.Free()
		}
		x = next
	}
	return x, nil
}
