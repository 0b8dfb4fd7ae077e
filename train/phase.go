package train

import (
	"context"
	"time"

	"fewstep/data/feed"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/methods"
	"fewstep/model/pipeline"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// phase is one phase of the ladder while it runs, on one device.
type phase struct {
	*Run
	s     *method.Session
	peers []*phase // of the leading device: the phase on each of the others
	at    int      // index in the ladder

	feed     *feed.Feed[method.Host, *method.Inputs]
	decoded  *feed.Ahead[drawn] // samples whose images are encoded while the run trains
	queue    []*queued          // updates whose numbers are not read, oldest first
	read     time.Time          // when an update's numbers were read last
	measured time.Time          // when an update's parts were measured last
	updates  int64              // of the discriminator, or of the student where there is none
	moved    int64              // updates of the student
}

// phase trains one phase from its start or from a checkpoint, and saves its result.
func (r *Run) phase(ctx context.Context, step distill.Step, checkpoint *rundir.Checkpoint) (err error) {
	at := r.index(step)
	if !step.Trains() {
		return r.merge(step, at)
	}
	if r.samples == nil {
		s, err := r.newSamples(ctx)
		if err != nil {
			return err
		}
		r.samples = s
	}
	if r.Engine.Sites {
		r.Engine.Drop() // one phase's thousand programs take device memory that the next one's need
	}
	r.Working("loading networks")
	p, err := r.newPhase(step, at, checkpoint)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.samples.stop() // it waits for no compilation
		}
		p.free()
	}()
	if err := p.together(func(q *phase) error { return q.prepare(ctx, checkpoint) }); err != nil {
		return err
	}
	if err := p.begin(checkpoint); err != nil {
		return err
	}
	r.Working("")
	for p.s.Done < step.Samples {
		if stop, err := p.agreed(); err != nil {
			return err
		} else if stop {
			return ErrInterrupted
		}
		if err := p.update(); err != nil {
			return err
		}
		if p.s.Done == step.Samples {
			break
		}
		if p.due() || ctx.Err() != nil {
			if err := p.checkpoint(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			if stop, err := p.agreed(); err != nil {
				return err
			} else if stop {
				return ErrInterrupted
			}
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

// index is a step's in the ladder.
func (r *Run) index(step distill.Step) int {
	for i, s := range r.Ladder.Steps() {
		if s.Stage == step.Stage && s.Phase == step.Phase {
			return i
		}
	}
	return len(r.Ladder.Steps())
}

// merge makes the stage's full model of the original base and the LoRA.
func (r *Run) merge(step distill.Step, at int) error {
	w, err := r.before(at).merged(step.Start)
	if !r.leads() {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	full, _, err := r.networks.Specs()
	if err != nil {
		return err
	}
	return r.Dir.SaveResult(pointOf(step, 0), nil, tensorFile(studentFile, full, pipeline.Reader(w), finite(studentFile, step, 0)))
}

// session makes a phase's session over networks, on the device of a rank among those of all processes.
func (r *Run) session(n *method.Networks, step distill.Step, rank int) (*method.Session, error) {
	m, err := methods.Of(step.Kind)
	if err != nil {
		return nil, err
	}
	s, err := method.New(n, m, r.Pipeline.Schedule, step, r.oneSample())
	if err == nil {
		s.On(rank, r.devices())
	}
	return s, err
}

// newPhase makes the phase on every device.
func (r *Run) newPhase(step distill.Step, at int, checkpoint *rundir.Checkpoint) (lead *phase, err error) {
	first := r.process() * max(r.opt.Devices, 1)
	for i := range r.Engines() {
		n := r.networksOn(i)
		n.Weights = &files{run: r, at: at, checkpoint: checkpoint}
		p := &phase{Run: r, at: at}
		if p.s, err = r.session(n, step, first+i); err != nil {
			return nil, err
		}
		if lead == nil {
			lead = p
		} else {
			lead.peers = append(lead.peers, p)
		}
	}
	return lead, nil
}

// prepare puts the phase's networks and optimizers on the device, with the state of a checkpoint, if there is one.
func (p *phase) prepare(ctx context.Context, checkpoint *rundir.Checkpoint) error {
	s := p.s
	if err := s.Load(); err != nil {
		return err
	}
	if checkpoint == nil && s.Phase.ClosedForm > 0 {
		if err := p.closedForm(ctx); err != nil {
			return err
		}
	}
	if err := s.Optimize(); err != nil {
		return err
	}
	s.Engine.ResetPeak()
	p.feeds()
	switch {
	case checkpoint != nil:
		return p.restore(checkpoint)
	case p.Config.Discriminator.CarryOptimizer && s.Step.DiscriminatorBackbone == distill.Carried:
		return p.carryOptimizer()
	}
	return nil
}

// begin starts watching the phase, from its record or from those before a checkpoint on.
func (p *phase) begin(checkpoint *rundir.Checkpoint) error {
	p.watch = nil
	if c := p.Config.Discriminator; c.CollapseWindow > 0 && p.leads() {
		perUpdate := int64(p.Config.Train.GlobalBatch())
		p.watch = &monitor.Watcher{Window: int(max(c.CollapseWindow/perUpdate, 1)), SaturatedLoss: c.CollapseLoss, SaturatedAcc: c.CollapseAccuracy}
	}
	p.saved, p.since = time.Now(), 0
	if checkpoint == nil {
		return p.report.Update(p.record(monitor.KindPhase, nil, 0))
	}
	if !p.leads() {
		return nil
	}
	return p.watchAgain() // the phase's record was written before the checkpoint
}

func (p *phase) free() {
	if p.feed != nil {
		p.feed.Close()
	}
	if p.decoded != nil {
		p.decoded.Close()
	}
	for _, u := range p.queue {
		u.free()
	}
	p.s.Free()
	for _, q := range p.peers {
		q.free()
	}
}
