// Package adversarial is distillation against a discriminator that tells the student's samples from the teacher's.
package adversarial

import (
	"math"

	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/model/discriminator"
)

// Method trains the discriminator by (20) and the student by (21), in turns.
type Method struct{}

// Names of what the method adds to a micro-batch, and of its numbers.
const (
	viewT, viewNoise, viewKeep, viewAdd = "view t", "view noise", "view keep", "view add" // what is shown of samples (3.7)
	penalty                             = "penalty"                                       // the noise of the approximate R1
)

// names are those of a discriminator's update: its loss, then its statistics in the program's order.
var names = func() []string {
	out := make([]string, 1+Statistics)
	out[0] = method.LossD
	for i, name := range map[int]string{StatAccuracy: "acc", StatPaired: method.Paired,
		StatGap: "gap", StatGapSquare: "gap_square", StatR1: "r1"} {
		out[1+i] = name
	}
	return out
}()

// Draw adds what the discriminator is shown of samples: keep·x + add·ε*, at the timestep t* (3.7), ε* shared by real and
// fake, and the noise of its penalty.
func (Method) Draw(p *distill.Sampler, b *distill.Batch, first int64) error {
	n := len(b.T)
	at, keep, add, silent := make([]int, n), make([]float64, n), make([]float64, n), make([]bool, n)
	for i, next := range b.TNext {
		level, err := distill.DiscriminatorLevel(p.Stage.NoiseLevels, p.Stage.LevelWeights(&p.Stage.Phases[p.Step.Phase]), p.Seed, first+int64(i))
		if err != nil {
			return err
		}
		at[i], keep[i], add[i] = distill.DiscriminatorView(p.Schedule, next, level)
		silent[i] = add[i] == 0
	}
	b.Columns = []distill.Column{{Name: viewT, At: at}, {Name: viewKeep, Values: keep}, {Name: viewAdd, Values: add}}
	b.Noises = []distill.NoiseColumn{{Name: viewNoise, Purpose: distill.DiscriminatorNoise, Silent: silent}}
	if p.R1 > 0 {
		b.Noises = append(b.Noises, distill.NoiseColumn{Name: penalty, Purpose: distill.PenaltyNoise})
	}
	return nil
}

// Update is one update of the discriminator by (20), then one of the student by (21) unless the gate is closed.
func (Method) Update(s *method.Session) error {
	batches, err := s.Batches()
	if err != nil {
		return err
	}
	defer method.Release(batches)
	form, of := discriminator.Form(s.Step.Form), len(batches)
	fakes := make([]*Fake, of)
	defer func() {
		for _, f := range fakes {
			f.Free()
		}
	}()
	view := func(b method.Batch) []*engine.Array {
		return []*engine.Array{b.More[viewT], b.More[viewNoise], b.More[viewKeep], b.More[viewAdd]}
	}
	for i := range s.Micros() {
		b := batches[i]
		if fakes[i], err = NewFake(s.Programs, s.Engine, s.Bind(), s.Optimizer(method.Student), of, b.At(b.X, b.T), b.A, b.B); err != nil {
			return err
		}
		if err := s.Did(method.Student, fakes[i].Sample); err != nil {
			return err
		}
		shown := append([]*engine.Array{b.Target, fakes[i].Sample}, view(b)...)
		if noise := b.More[penalty]; noise != nil {
			shown = append(shown, noise)
		}
		err := s.Train(method.Discriminator, Discriminator(s.Programs, penaltyOf(s), form), i, names, b.At(b.X, b.T, shown...)...)
		fakes[i].Shown()
		if err != nil {
			return err
		}
	}
	if !s.StudentMoves() {
		return nil
	}
	for i := range s.Micros() {
		b := batches[i]
		res, err := GeneratorStep(s.Programs, s.Engine, s.Bind(), s.Optimizer(method.Student), s.StepOf(method.Student, i), form, fakes[i], b.At(b.X, b.T), b.A, b.B, view(b))
		if err := s.Keep(method.Student, res, err, method.LossG); err != nil {
			return err
		}
	}
	return nil
}

// penaltyOf is the recipe's.
func penaltyOf(s *method.Session) R1 {
	c := s.Recipe.Discriminator
	return R1{Weight: c.R1, Sigma: c.R1Sigma}
}

// Tell turns the gaps' mean square over n samples into the standard error of their mean, which takes two samples, and
// takes the penalty out of the loss.
func (Method) Tell(s *method.Session, values map[string]float64, n int) {
	values[method.LossD] -= penaltyOf(s).Weight * values["r1"]
	square, gap := values["gap_square"], values["gap"]
	delete(values, "gap_square")
	if n > 1 {
		values["gap_se"] = math.Sqrt(max(square-gap*gap, 0) / float64(n-1))
	}
}
