package train

import (
	"context"
	"time"

	"fewstep/configs"
	"fewstep/data/feed"
	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/pipeline"
	"fewstep/train/cost"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// phase is one phase of the ladder while it runs, on one device.
type phase struct {
	*Run
	rank     int      // of the device, over all processes
	peers    []*phase // of the leading one: the phase on each of the others
	step     distill.Step
	settings *configs.Phase
	at       int // index in the ladder
	sampler  *distill.Sampler
	form     discriminator.Form

	f         *program.Functions // of the student
	ofTeacher *program.Functions

	empty                    []*engine.Array // what the empty prompt makes of the conditions that follow from captions; nil = zeros
	student, critic, teacher *engine.Params
	freeTeacher              func()
	optS, optD               *engine.Optimizer
	feed                     *feed.Feed[micro, *inputs]
	queue                    []*queued // updates whose numbers are not read, oldest first
	read                     time.Time // when an update's numbers were read last
	measured                 time.Time // when an update's parts were measured last
	gate                     distill.Gate
	done                     int64 // samples
	updates                  int64 // of the discriminator, or of the student where there is none
	moved                    int64 // updates of the student
}

// phase trains one phase from its start or from a checkpoint, and saves its result.
func (r *Run) phase(ctx context.Context, step distill.Step, checkpoint *rundir.Checkpoint) error {
	p := &phase{Run: r, rank: r.process() * max(r.opt.Devices, 1), step: step, settings: &r.Config.Stages[step.Stage].Phases[step.Phase]}
	for i, s := range r.Ladder.Steps() {
		if s.Stage == step.Stage && s.Phase == step.Phase {
			p.at = i
		}
	}
	if step.Kind == configs.KindMerge {
		return p.merge()
	}
	if r.samples == nil {
		s, err := r.newSamples()
		if err != nil {
			return err
		}
		r.samples = s
	}
	if r.Engine.Sites {
		r.Engine.Drop() // one phase's thousand programs take device memory that the next one's need
	}
	r.Working("loading networks")
	p.deal()
	if err := p.together(func(q *phase) error { return q.prepare(ctx, checkpoint) }); err != nil {
		return err
	}
	defer p.free()
	for _, q := range p.all() {
		q.feeds()
	}
	r.saved, r.since = time.Now(), 0
	r.Working("")
	for p.done < step.Samples {
		if stop, err := p.agreed(); err != nil {
			return err
		} else if stop {
			return ErrInterrupted
		}
		if err := p.update(); err != nil {
			return err
		}
		if p.done < step.Samples && (p.due() || ctx.Err() != nil) {
			if err := p.checkpoint(); err != nil {
				return err
			}
		}
		if p.done < step.Samples && ctx.Err() != nil { // never on one of several ranks: they stop where they have agreed to
			if p.since > 0 { // it was interrupted while the checkpoint was made
				if err := p.checkpoint(); err != nil {
					return err
				}
			}
			return ErrInterrupted
		}
	}
	if err := p.finish(); err != nil {
		return err
	}
	p.unsaved.Store(false)
	return nil
}

// merge makes the stage's full model of the original base and the LoRA.
func (p *phase) merge() error {
	if !p.leads() {
		return nil
	}
	w, err := p.models.weights(p.step.Start, p.at)
	if err != nil {
		return err
	}
	defer w.Close()
	return p.Dir.SaveResult(p.point(), nil, p.tensorFile(studentFile, p.models.full, pipeline.Reader(w)))
}

func (p *phase) prepare(ctx context.Context, checkpoint *rundir.Checkpoint) (err error) {
	r, step := p.Run, p.step
	if p.sampler, err = distill.NewSampler(r.Pipeline.Schedule, r.Config, step); err != nil {
		return err
	}
	p.f = &program.Functions{UNet: r.Pipeline.UNet, Disc: r.critics(), R1: penalty(r.Config)}
	p.ofTeacher = &program.Functions{UNet: p.f.UNet}
	if step.Target == configs.TargetLoRA && !r.Engine.Split {
		p.f.LoRA = r.models.adapters()
	}
	if r.models.besideBase(step.Teacher) {
		p.ofTeacher.LoRA = r.models.adapters()
	}
	ofBase := step.Kind == configs.KindAdversarial && r.Config.Discriminator.Target == configs.TargetLoRA
	if step.Target != configs.TargetLoRA && step.Teacher.Full != distill.Base && !ofBase {
		r.models.free() // the base's place is needed
	}
	p.form = discriminator.Form(step.Form)
	if p.student, err = r.models.student(step, p.at, checkpoint); err != nil {
		return err
	}
	if p.teacher, p.freeTeacher, err = r.models.teacher(step.Teacher, p.at); err != nil {
		return err
	}
	if step.Guidance > 1 {
		if p.empty, err = r.emptyPrompt(r.perDevice()); err != nil {
			return err
		}
	}
	if step.Kind == configs.KindAdversarial {
		if p.critic, err = r.models.critic(step, p.at, checkpoint); err != nil {
			return err
		}
		adam := r.adamOf("discriminator", step)
		adam.WeightDecay = p.settings.DiscriminatorWeightDecay
		if p.optD, err = r.Engine.NewOptimizer(adam, p.critic); err != nil {
			return err
		}
		if checkpoint == nil && r.Config.Discriminator.CarryOptimizer && step.DiscriminatorBackbone == distill.Carried {
			if err = p.carryOptimizer(); err != nil {
				return err
			}
		}
	}
	if checkpoint == nil && p.settings.ClosedForm > 0 {
		if err = p.closedForm(ctx); err != nil {
			return err
		}
	}
	adam := r.adamOf("student", step)
	adam.EMA = r.Config.Train.EMA
	if p.optS, err = r.Engine.NewOptimizer(adam, p.student); err != nil {
		return err
	}
	c := r.Config.Discriminator
	r.watch = nil
	if c.CollapseWindow > 0 && p.rank == 0 {
		perUpdate := int64(r.Config.Train.GlobalBatch())
		r.watch = &monitor.Watcher{Window: int(max(c.CollapseWindow/perUpdate, 1)), SaturatedLoss: c.CollapseLoss, SaturatedAcc: c.CollapseAccuracy}
	}
	r.Engine.ResetPeak()
	if checkpoint == nil && p.rank > 0 {
		return nil
	}
	if checkpoint == nil {
		return p.report.Update(p.record(monitor.KindPhase, nil, 0))
	}
	return p.restore(checkpoint) // the phase's record was written before the checkpoint
}

func penalty(c *configs.Recipe) program.R1 {
	return program.R1{Weight: c.Discriminator.R1, Sigma: c.Discriminator.R1Sigma}
}

// adam is the optimizer of a phase, without an average.
func (r *Run) adam(step distill.Step) engine.Adam {
	p, t := r.Config.Stages[step.Stage].Phases[step.Phase], r.Config.Train
	return engine.Adam{Beta1: p.Beta1, Beta2: p.Beta2, Eps: t.AdamEpsilon, WeightDecay: p.WeightDecay, ClipNorm: t.ClipNorm,
		Moments: cost.ComputeTypes[t.Moments]}
}

// adamOf is adam for one of a phase's networks, with random bits of its own for the rounding of moments.
func (r *Run) adamOf(network string, step distill.Step) engine.Adam {
	a := r.adam(step)
	a.Seed = r.Config.Seed ^ uint64(distill.NumberOf(step.StageName+"/"+step.PhaseName+"/"+network))
	return a
}

func (p *phase) free() {
	if p.feed != nil {
		p.feed.Close()
	}
	for _, u := range p.queue {
		u.free()
	}
	p.student.FreeTrained()
	p.optS.Free()
	if p.critic != nil {
		p.critic.FreeTrained()
		p.optD.Free()
	}
	p.freeTeacher()
	engine.Free(p.empty...)
	for _, q := range p.peers {
		q.free()
	}
}
