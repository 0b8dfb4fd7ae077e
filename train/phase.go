package train

import (
	"context"
	"sync/atomic"
	"time"

	"fewstep/cluster"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/methods"
	"fewstep/engine"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// phase is one phase of the ladder while it trains. It is its worker on the process's first device, too.
type phase struct {
	*worker
	workers []*worker // by device of the process
	group   *engine.Group

	report    monitor.Reporter
	account   *monitor.Account // of the run's goodput; nil = it is not told
	watch     *monitor.Watcher // nil = nothing is watched
	card      Device           // may be nil
	perSample float64          // operations

	updates int64        // of the discriminator, or of the student where there is none
	moved   int64        // updates of the student
	queue   []*queued    // updates whose numbers are not read, oldest first
	unsaved *atomic.Bool // an update was made since the last checkpoint or result
	saved   time.Time    // of the last checkpoint
	since   int64        // samples since then
	asked   bool         // all ranks were asked to save

	recent   recent
	read     time.Time     // when an update's numbers were read last
	measured time.Time     // when an update's parts were measured last
	waited   time.Duration // for other processes, when that was told last
	slow     int           // rank that was slower than the others in the last measured update; -1 = none
}

// train trains a phase from its start or from a checkpoint, and saves its result.
func (p *phase) train(ctx context.Context, checkpoint *rundir.Checkpoint) (err error) {
	defer func() {
		if err != nil {
			p.loader.stop()
		}
		p.free()
	}()
	p.Working("loading networks")
	if err := p.together(func(w *worker) error { return w.prepare(ctx, checkpoint) }); err != nil {
		return err
	}
	if err := p.begin(checkpoint); err != nil {
		return err
	}
	p.Working("")
	for p.s.Done < p.s.Step.Samples { // none is left where a checkpoint was made at the phase's end
		if stop, err := p.pause(ctx); err != nil {
			return err
		} else if stop {
			return p.interrupted()
		}
		if left, err := p.update(ctx); err != nil {
			return err
		} else if left {
			return p.interrupted()
		}
		if p.s.Done < p.s.Step.Samples && p.due() {
			if err := p.checkpoint(); err != nil {
				return err
			}
		}
		p.during(ctx)
	}
	err = p.finish()
	p.during(ctx)
	return err
}

// during has the engines wait for compilations no longer than ctx, while nothing is lost by an update that is half done.
func (p *phase) during(ctx context.Context) {
	if p.unsaved.Load() {
		ctx = nil
	}
	during(ctx, p.group.Engines())
}

// during has engines wait for compilations, and load networks, no longer than ctx; nil = to the end.
func during(ctx context.Context, engines []*engine.Engine) {
	for _, e := range engines {
		e.Context = ctx
	}
}

// interrupted saves, and ends training.
func (p *phase) interrupted() error {
	if err := p.save(); err != nil {
		return err
	}
	return ErrInterrupted
}

// pause saves before an update what is to be saved then, and says whether training stops: once ctx has ended or, where several
// ranks train, when all have agreed to.
func (p *phase) pause(ctx context.Context) (stop bool, err error) {
	m := p.member
	if m == nil {
		if ctx.Err() == nil {
			return false, nil
		}
		return true, nil
	}
	if p.leads() && p.overdue() && !p.asked {
		p.asked = true
		if err := m.Propose(m.Context(), cluster.Save, "train.checkpoint_minutes"); err != nil {
			return false, err
		}
	}
	for {
		action, err := m.Next(m.Context())
		if err != nil || action == cluster.None {
			return false, err
		}
		if action == cluster.Stop {
			return true, nil
		}
		if err := p.save(); err != nil {
			return false, err
		}
		p.asked = false
	}
}

// save makes a checkpoint, unless nothing was trained since the last.
func (p *phase) save() error {
	if p.since == 0 {
		return nil
	}
	return p.checkpoint()
}

// together runs f on every device at once.
func (p *phase) together(f func(*worker) error) error {
	if len(p.workers) == 1 {
		return f(p.worker)
	}
	return p.group.Together(func(device int) error { return f(p.workers[device]) })
}

// session makes a phase's session over networks, on the device of a rank among those of all processes.
func (s *Setup) session(n *method.Networks, step distill.Step, rank int) (*method.Session, error) {
	m, err := methods.Of(step.Kind)
	if err != nil {
		return nil, err
	}
	session, err := method.New(n, m, s.Pipeline.Schedule, step, s.inputs(1))
	if err == nil {
		session.On(rank, s.devices())
	}
	return session, err
}

// begin starts watching the phase, from its record or from those before a checkpoint on.
func (p *phase) begin(checkpoint *rundir.Checkpoint) error {
	if c := p.Config.Discriminator; c.CollapseWindow > 0 && p.leads() {
		perUpdate := int64(p.Config.Train.GlobalBatch())
		p.watch = &monitor.Watcher{Window: int(max(c.CollapseWindow/perUpdate, 1)), SaturatedLoss: c.CollapseLoss, SaturatedAcc: c.CollapseAccuracy}
	}
	p.saved, p.slow, p.waited = time.Now(), -1, p.group.Waited()
	if checkpoint == nil {
		return p.report.Update(p.record(monitor.KindPhase, nil, 0))
	}
	if err := p.restore(checkpoint); err != nil {
		return err
	}
	if !p.leads() {
		return nil
	}
	return p.watchAgain() // the phase's record was written before the checkpoint
}

func (p *phase) free() {
	for _, u := range p.queue {
		u.free()
	}
	for _, w := range p.workers {
		w.free()
	}
}
