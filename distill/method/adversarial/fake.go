package adversarial

import (
	"slices"

	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
)

// Fake is the student's sample of an adversarial update: first the discriminator is trained on it, then the student
// through it. The student does not change between the two, so its forward pass serves both where it can be kept.
type Fake struct {
	Sample *engine.Array // x_{t'}
	pass   *engine.Pass  // nil: the student's update computes the sample again
}

// SharesForward says whether a student's forward pass serves both updates of an adversarial step: block by block, where
// keeping it costs the inputs of the student's blocks during the discriminator's update. Several micro-batches would
// have to be kept at once, since all of the discriminator's go first; they are computed again instead.
func SharesForward(e *engine.Engine, micro int) bool { return e.Granularity < nn.Network && micro <= 1 }

// NewFake makes the student's sample. in are the student's five inputs, a and b [B] its step's coefficients; micro is the
// number of micro-batches of an update. Whoever makes a Fake frees it, after GeneratorStep or without.
func NewFake(f *program.Functions, e *engine.Engine, bind engine.Bind, student *engine.Optimizer, micro int, in []*engine.Array, a, b *engine.Array) (*Fake, error) {
	if !SharesForward(e, micro) {
		x, err := f.Move(e, bind[program.NetDenoiser], in, a, b, nil)
		return &Fake{Sample: x}, err
	}
	pass, err := e.Record(f.Step(), bind, program.NetDenoiser, student, slices.Concat(in, []*engine.Array{a, b})...)
	if err != nil {
		return nil, err
	}
	return &Fake{Sample: pass.Output(), pass: pass}, nil
}

// GeneratorStep is the student's update by (21). in, a and b are those that the sample was made from, view is what the
// discriminator is shown it with: t', noise, keep, add.
func GeneratorStep(f *program.Functions, e *engine.Engine, bind engine.Bind, student *engine.Optimizer, step engine.Step, form discriminator.Form, fake *Fake, in []*engine.Array, a, b *engine.Array, view []*engine.Array) (*engine.Result, error) {
	if fake.pass == nil {
		return e.Train(Generator(f, form), bind, program.NetDenoiser, student, step, slices.Concat(in, []*engine.Array{a, b}, view)...)
	}
	return e.Continue(fake.pass, Critique(f, form), step.LR, slices.Concat(in, view)...)
}

// Shown says that the discriminator's update is over: a sample that is computed again goes.
func (f *Fake) Shown() {
	if f.pass == nil {
		f.Sample.Free()
		f.Sample = nil
	}
}

// Free drops the sample and what was kept for its gradient. A Fake that is nil has neither.
func (f *Fake) Free() {
	switch {
	case f == nil:
	case f.pass != nil:
		f.pass.Free()
	case f.Sample != nil:
		f.Sample.Free()
	}
}
