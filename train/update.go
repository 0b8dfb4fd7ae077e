package train

import (
	"context"
	"errors"
	"sync"

	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/train/monitor"
)

// errLeft ends an update that was left: it changed nothing, and its samples are trained on again when the run continues.
var errLeft = errors.New("the update was left")

// update is one optimizer update of what the phase trains. It queues it, and reads the numbers of an earlier one. Where training
// is to stop the update is left if it can be.
func (p *phase) update(ctx context.Context) (left bool, err error) {
	w, err := p.newWall()
	if err != nil {
		return false, err
	}
	s := p.s
	n := int64(p.Config.Train.GlobalBatch())
	u := &queued{numbers: &numbers{values: monitor.Values{}, of: p.Config.Train.Accumulate}, first: s.Step.First + s.Done, count: n, wall: w, start: w.last}
	waited := p.feed.Waited
	parts := &leaving{ask: func() (bool, error) { return p.leaves(ctx) }}
	if err := p.together(func(of *worker) error {
		of.s.Go = parts.of()
		read, times := u.numbers, w
		if of != p.worker {
			of.s.Done, of.s.Gate = s.Done, s.Gate
			defer of.s.Forget()
			read, times = &numbers{values: monitor.Values{}}, &wall{}
		}
		err := of.update(read, times)
		if errors.Is(err, errLeft) { // on all devices alike, so none waits for another
			return nil
		}
		return err
	}); err != nil || parts.left {
		u.free()
		return parts.left, err
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
		return false, err
	}
	if s.Gate.Warm && s.Done < s.Step.Warmup {
		s.Done = s.Step.Warmup // what is left of the warm-up is left out
	}
	return false, nil
}

// leaves says whether the update is left at this part of it: once ctx has ended or, where several ranks train, when all have
// agreed to.
func (p *phase) leaves(ctx context.Context) (bool, error) {
	if m := p.member; m != nil {
		return m.Part(m.Context())
	}
	return ctx.Err() != nil, nil
}

// leaving asks before every part of an update whether it is left there, once for all devices of the process: the first that comes
// to the part asks, the others get its answer. They walk through the same parts.
type leaving struct {
	ask func() (bool, error)

	mu   sync.Mutex
	next int // first part that was not asked for
	left bool
	err  error
}

// of is the question of one device. Its error is errLeft where the update is left.
func (l *leaving) of() func() error {
	part := -1
	return func() error {
		part++
		l.mu.Lock()
		defer l.mu.Unlock()
		if part >= l.next && !l.left && l.err == nil {
			l.next++
			l.left, l.err = l.ask()
		}
		switch {
		case part < l.next-1: // others went on from there
			return nil
		case l.left:
			return errLeft
		}
		return l.err
	}
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
