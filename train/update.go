package train

import (
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/train/monitor"
)

// update is one optimizer update of what the phase trains. It queues it, and reads the numbers of an earlier one.
func (p *phase) update() error {
	w, err := p.newWall()
	if err != nil {
		return err
	}
	s := p.s
	n := int64(p.Config.Train.GlobalBatch())
	u := &queued{numbers: &numbers{values: monitor.Values{}, of: p.Config.Train.Accumulate}, first: s.Step.First + s.Done, count: n, wall: w, start: w.last}
	waited := p.feed.Waited
	if err := p.together(func(of *worker) error {
		if of == p.worker {
			return of.update(u.numbers, w)
		}
		of.s.Done, of.s.Gate = s.Done, s.Gate
		defer of.s.Forget()
		return of.update(&numbers{values: monitor.Values{}}, &wall{})
	}); err != nil {
		u.free()
		return err
	}
	w.values[monitor.DataWait] = (p.feed.Waited - waited).Seconds()
	p.count(u.values)
	u.record = p.record(monitor.KindStep, u.values, n)
	p.queue = append(p.queue, u)
	s.Done += n
	p.since += n
	p.unsaved.Store(true)
	p.updates++
	behind := inFlight
	if w.parts || s.Gate.Decides(s.Phase, s.Done) {
		behind = 0
	}
	if err := p.settle(behind); err != nil {
		return err
	}
	if s.Gate.Warm && s.Done < s.Step.Warmup {
		s.Done = s.Step.Warmup // what is left of the warm-up is left out
	}
	return nil
}

// update is an update's work on one device, with its part of the samples. The numbers are those of all devices.
func (w *worker) update(numbers *numbers, times *wall) error {
	s := w.s
	s.Part = func(what method.Role, wait *engine.Array) error { return times.part(s.Engine, partNames[what], wait) }
	err := s.Update()
	numbers.take(s)
	if err != nil {
		return err
	}
	return times.rest(s.Engine, numbers)
}

// partNames are those of the parts of an update.
var partNames = map[method.Role]string{method.Data: monitor.DataSeconds, method.Teacher: monitor.TeacherSeconds,
	method.Discriminator: monitor.DiscriminatorSeconds, method.Student: monitor.StudentSeconds}

// record describes the state after n more samples.
func (p *phase) record(kind string, v monitor.Values, n int64) monitor.Record {
	step, s := p.updates, p.s
	if n > 0 {
		step++
	}
	return monitor.Record{Kind: kind, Stage: s.Step.StageName, Phase: s.Step.PhaseName, Step: step, Samples: s.Done + n,
		Total: s.Step.Samples, Position: s.Step.First + s.Done + n, RunTotal: p.Ladder.Total(), Values: v}
}

// count counts an update that is queued, into its values too. Where the student moved they have its rate.
func (p *phase) count(values monitor.Values) {
	if p.s.Moved {
		p.moved++
		values[monitor.LR] = p.s.Rate
	}
	if p.hasCritic() {
		values[monitor.StudentUpdates], values[monitor.DiscriminatorUpdates] = float64(p.moved), float64(p.updates+1)
	}
}

func (w *worker) hasCritic() bool { return w.s.Optimizer(method.Discriminator) != nil }

// summary tells what the phase's training amounted to, and the log where that is next to nothing.
func (p *phase) summary() monitor.Summary {
	s := monitor.Summary{Updates: p.updates, StudentUpdates: p.moved, Paired: p.s.Gate.Accuracy}
	if p.hasCritic() {
		s.DiscriminatorUpdates, s.DiscriminatorSteps = p.updates, p.s.Optimizer(method.Discriminator).Steps
	}
	if s.StudentUpdates < monitor.FewUpdates {
		p.log.Warn("the phase's student hardly moved: its model is nearly the one that it started from",
			"stage", p.s.Step.StageName, "phase", p.s.Step.PhaseName, "student updates", s.StudentUpdates, "updates", s.Updates)
	}
	return s
}
