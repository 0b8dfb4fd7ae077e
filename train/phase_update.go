package train

import (
	"slices"

	"fewstep/configs"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/train/monitor"
)

// update is one optimizer step of the student and, in adversarial phases, one of the discriminator before it. It queues
// them, and reads the numbers of an earlier update.
func (p *phase) update() error {
	w, err := p.newWall()
	if err != nil {
		return err
	}
	c := p.Config.Train
	n := int64(c.GlobalBatch())
	u := &queued{numbers: &numbers{values: monitor.Values{}, of: c.Accumulate}, first: p.step.First + p.done, count: n, wall: w, start: w.last}
	if err := p.together(func(q *phase) error {
		if q == p {
			return p.compute(u.numbers, w)
		}
		q.done, q.gate = p.done, p.gate
		same := &numbers{values: monitor.Values{}, of: c.Accumulate}
		defer same.free()
		return q.compute(same, &wall{})
	}); err != nil {
		u.free()
		return err
	}
	p.count(u.values)
	u.record = p.record(monitor.KindStep, u.values, n)
	p.queue = append(p.queue, u)
	p.done += n
	p.since += n
	p.unsaved.Store(true)
	p.updates++
	behind := inFlight
	if w.parts || p.gate.Decides(p.settings, p.done) {
		behind = 0
	}
	if err := p.settle(behind); err != nil {
		return err
	}
	if p.gate.Warm && p.done < p.step.Warmup {
		p.done = p.step.Warmup // what is left of the warm-up is left out
	}
	return nil
}

// compute is the work of an update on one device, with its part of the samples. The numbers are those of all devices.
func (p *phase) compute(numbers *numbers, w *wall) (err error) {
	var micro []*inputs
	var real []*engine.Array
	defer func() {
		for _, in := range micro {
			in.free()
		}
		engine.Free(real...)
	}()
	for i := range p.Config.Train.Accumulate {
		in, err := p.feed.Take(p.first(i))
		if err != nil {
			return err
		}
		micro = append(micro, in)
		if err := w.part(p.Engine, monitor.DataSeconds, nil); err != nil {
			return err
		}
		target, err := p.target(in)
		if err != nil {
			return err
		}
		real = append(real, target)
		if err := w.part(p.Engine, monitor.TeacherSeconds, target); err != nil {
			return err
		}
	}
	p.feed.Wait()
	if err := w.part(p.Engine, monitor.DataSeconds, nil); err != nil {
		return err
	}
	if p.step.Kind == configs.KindAdversarial {
		err = p.adversarial(micro, real, numbers, w)
	} else {
		err = p.regress(micro, real, numbers)
	}
	if err != nil {
		return err
	}
	return w.rest(p.Engine, numbers)
}

// record describes the state after n more samples.
func (p *phase) record(kind string, v monitor.Values, n int64) monitor.Record {
	step := p.updates
	if n > 0 {
		step++
	}
	return monitor.Record{Kind: kind, Stage: p.step.StageName, Phase: p.step.PhaseName, Step: step, Samples: p.done + n,
		Total: p.step.Samples, Position: p.step.First + p.done + n, RunTotal: p.Ladder.Total(), Values: v}
}

// target is the teacher's x_{t'} ("real"), or the x0 of the frozen network in a conversion (29).
func (p *phase) target(in *inputs) (*engine.Array, error) {
	x := in.x
	for _, m := range in.teacher {
		next, err := p.ofTeacher.Move(p.Engine, p.teacher, in.call(x, m.t), m.a, m.b, in.guidance)
		if x != in.x {
			x.Free()
		}
		if err != nil {
			return nil, err
		}
		x = next
	}
	return x, nil
}

// regress is an update by (16), or by (29) in a conversion.
func (p *phase) regress(micro []*inputs, real []*engine.Array, numbers *numbers) error {
	lr := p.settings.StudentRate(p.step.RateAt(p.done))
	for i, in := range micro {
		res, err := p.Engine.Train(p.f.MSE(), engine.Bind{program.NetUNet: p.student}, program.NetUNet, p.optS,
			engine.Step{LR: lr, Micro: i, Of: len(micro)}, in.call(in.x, in.t, in.a, in.b, real[i])...)
		if err := numbers.add(res, err, monitor.Loss); err != nil {
			return err
		}
	}
	numbers.values[monitor.LR] = lr
	return nil
}

// adversarial is one update of the discriminator by (20), then one of the student by (21) unless the gate is closed.
func (p *phase) adversarial(micro []*inputs, real []*engine.Array, numbers *numbers, w *wall) error {
	of := len(micro)
	bind := engine.Bind{program.NetUNet: p.student, program.NetDisc: p.critic}
	fakes := make([]*program.Fake, of)
	defer func() {
		for _, f := range fakes {
			f.Free()
		}
	}()
	lrD := p.settings.DiscriminatorRate(p.step.RateAt(p.done))
	for i, in := range micro {
		fake, err := p.f.Fake(p.Engine, bind, p.optS, of, in.call(in.x, in.t), in.a, in.b)
		if err != nil {
			return err
		}
		fakes[i] = fake
		if err := w.part(p.Engine, monitor.StudentSeconds, fake.Sample); err != nil {
			return err
		}
		args := slices.Concat(in.call(in.x, in.t, real[i], fake.Sample), in.view, in.penalty)
		res, err := p.Engine.Train(p.f.Discriminator(p.form), bind, program.NetDisc, p.optD, engine.Step{LR: lrD, Micro: i, Of: of}, args...)
		fake.Shown()
		if err := numbers.add(res, err, pairNames...); err != nil {
			return err
		}
		if err := w.part(p.Engine, monitor.DiscriminatorSeconds, res.Outputs[0]); err != nil {
			return err
		}
	}
	if !p.gate.StudentMoves(p.settings, p.done) {
		return nil
	}
	lr := p.settings.StudentRate(p.step.RateAt(p.done))
	for i, in := range micro {
		res, err := p.f.GeneratorStep(p.Engine, bind, p.optS, engine.Step{LR: lr, Micro: i, Of: of}, p.form, fakes[i], in.call(in.x, in.t), in.a, in.b, in.view)
		if err := numbers.add(res, err, monitor.LossG); err != nil {
			return err
		}
	}
	numbers.values[monitor.LR] = lr
	return nil
}
