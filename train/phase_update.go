package train

import (
	"math"
	"time"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/train/monitor"
)

// update is one optimizer step of the student and, in adversarial phases, one of the discriminator before it.
func (p *phase) update() error {
	start := time.Now()
	c := p.Config.Train
	w := p.newWall()
	first := p.step.First + p.done
	var micro []*inputs
	var real []*engine.Array
	defer func() {
		for _, in := range micro {
			in.free()
		}
		engine.Free(real...)
	}()
	for i := range c.Accumulate {
		in, err := p.samples.batch(p.sampler, first+int64(i*c.Batch), c.Batch)
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
	values := monitor.Values{}
	var err error
	if p.step.Kind == distill.KindAdversarial {
		err = p.adversarial(micro, real, first, values, w)
	} else {
		err = p.regress(micro, real, values)
	}
	if err == nil {
		err = w.part(p.Engine, monitor.StudentSeconds, nil)
	}
	if err != nil {
		return err
	}
	n := int64(c.Accumulate * c.Batch)
	rec := p.record(monitor.KindStep, values, n)
	numbers, keys := p.samples.keys(first, int(n))
	if err := monitor.CheckFinite(rec, numbers, keys); err != nil {
		return err
	}
	p.observe(values, n)
	p.done += n
	p.since += n
	p.unsaved.Store(true)
	p.updates++
	if p.gate.Warm && p.done < p.step.Warmup {
		p.done = p.step.Warmup // what is left of the warm-up is left out
	}
	rec.Took = time.Since(start)
	rec.Wall = p.finishWall(w, n, rec.Took)
	if p.watch != nil {
		if f := p.watch.Update(rec); f != nil {
			p.opt.Log.Warn("discriminator: " + f.String())
		}
	}
	return p.report.Update(rec)
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
	s := p.Pipeline.Schedule
	move := func(x *engine.Array, t []int, a, b []float64, guidance *engine.Array) (*engine.Array, error) {
		index, err := in.index(s, t)
		if err != nil {
			return nil, err
		}
		ca, err := in.column(a)
		if err != nil {
			return nil, err
		}
		cb, err := in.column(b)
		if err != nil {
			return nil, err
		}
		return p.ofTeacher.Move(p.Engine, p.teacher, in.call(x, index), ca, cb, guidance)
	}
	if p.step.Kind == distill.KindX0 {
		return move(in.x, in.T, in.TargetA, in.TargetB, nil)
	}
	var guidance *engine.Array
	if p.step.Guidance > 1 {
		g := make([]float64, len(in.T))
		for i := range g {
			g[i] = p.step.Guidance
		}
		var err error
		if guidance, err = in.column(g); err != nil {
			return nil, err
		}
	}
	x := in.x
	for _, w := range in.Teacher {
		next, err := move(x, w.At, w.A, w.B, guidance)
		if err != nil {
			return nil, err
		}
		if x != in.x {
			x.Free()
		}
		x = next
	}
	return x, nil
}

// regress is an update by (16), or by (29) in a conversion.
func (p *phase) regress(micro []*inputs, real []*engine.Array, values monitor.Values) error {
	lr := p.settings.StudentRate(p.step.RateAt(p.done))
	for i, in := range micro {
		t, err := in.index(p.Pipeline.Schedule, in.T)
		if err != nil {
			return err
		}
		a, err := in.column(in.StudentA)
		if err != nil {
			return err
		}
		b, err := in.column(in.StudentB)
		if err != nil {
			return err
		}
		res, err := p.Engine.Train(p.f.MSE(), engine.Bind{program.NetUNet: p.student}, program.NetUNet, p.optS,
			engine.Step{LR: lr, Micro: i, Of: len(micro)}, in.call(in.x, t, a, b, real[i])...)
		if err := p.collect(res, err, values, len(micro), monitor.Loss); err != nil {
			return err
		}
	}
	values[monitor.LR] = lr
	return nil
}

// collect adds a training call's outputs, each a number or a list of them, to the values by name, and its gradient norm.
func (p *phase) collect(res *engine.Result, err error, values monitor.Values, of int, names ...string) error {
	if err != nil {
		return err
	}
	defer res.Free()
	var all []float32
	for _, out := range res.Outputs {
		v, err := p.Engine.Floats(out)
		if err != nil {
			return err
		}
		all = append(all, v...)
	}
	for i, name := range names {
		values[name] += float64(all[i]) / float64(of)
	}
	if res.Updated {
		norm := monitor.GradNorm
		if names[0] == monitor.LossD {
			norm += "_d"
		}
		norm2, err := res.Norm2()
		if err != nil {
			return err
		}
		values[norm] = math.Sqrt(norm2)
	}
	return nil
}

// adversarial is one update of the discriminator by (20), then one of the student by (21) unless the gate is closed.
func (p *phase) adversarial(micro []*inputs, real []*engine.Array, first int64, values monitor.Values, w *wall) error {
	s, of := p.Pipeline.Schedule, len(micro)
	bind := engine.Bind{program.NetUNet: p.student, program.NetDisc: p.critic}
	type prepared struct {
		call, view []*engine.Array
		a, b       *engine.Array
		fake       *program.Fake
	}
	ready := make([]prepared, of)
	defer func() {
		for _, r := range ready {
			r.fake.Free()
		}
	}()
	lrD := p.settings.DiscriminatorRate(p.step.RateAt(p.done))
	for i, in := range micro {
		columns := make([]*engine.Array, 0, 6)
		for _, v := range [][]float64{in.StudentA, in.StudentB, in.ViewA, in.ViewB} {
			a, err := in.column(v)
			if err != nil {
				return err
			}
			columns = append(columns, a)
		}
		t, err := in.index(s, in.T)
		if err != nil {
			return err
		}
		viewT, err := in.index(s, in.ViewT)
		if err != nil {
			return err
		}
		noise, err := p.samples.viewNoise(in, first+int64(i*len(in.T)), len(in.T))
		if err != nil {
			return err
		}
		if err := w.part(p.Engine, monitor.DataSeconds, nil); err != nil {
			return err
		}
		r := &ready[i]
		*r = prepared{call: in.call(in.x, t), a: columns[0], b: columns[1], view: []*engine.Array{viewT, noise, columns[2], columns[3]}}
		if r.fake, err = p.f.Fake(p.Engine, bind, p.optS, of, r.call, r.a, r.b); err != nil {
			return err
		}
		if err := w.part(p.Engine, monitor.StudentSeconds, r.fake.Sample); err != nil {
			return err
		}
		args := append(in.call(in.x, t, real[i], r.fake.Sample), r.view...)
		res, err := p.Engine.Train(p.f.Discriminator(p.form), bind, program.NetDisc, p.optD, engine.Step{LR: lrD, Micro: i, Of: of}, args...)
		r.fake.Shown()
		if err := p.collect(res, err, values, of, pairNames...); err != nil {
			return err
		}
		if err := w.part(p.Engine, monitor.DiscriminatorSeconds, nil); err != nil {
			return err
		}
	}
	pairs(values, of*len(micro[0].T))
	if !p.gate.StudentMoves(p.settings, p.done) {
		return nil
	}
	lr := p.settings.StudentRate(p.step.RateAt(p.done))
	for i, r := range ready {
		res, err := p.f.GeneratorStep(p.Engine, bind, p.optS, engine.Step{LR: lr, Micro: i, Of: of}, p.form, r.fake, r.call, r.a, r.b, r.view)
		if err := p.collect(res, err, values, of, monitor.LossG); err != nil {
			return err
		}
	}
	values[monitor.LR] = lr
	return nil
}
