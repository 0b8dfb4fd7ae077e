package train

import (
	"context"
	"errors"
	"fmt"

	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/train/cost"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// Walk runs what is left of the ladder. It reports whether anything was left.
func (r *Run) Walk(ctx context.Context) (worked bool, err error) {
	if r.member != nil { // a rank that stops by itself would leave the others waiting
		defer r.stops(ctx)()
		ctx = r.member.Context()
	}
	shown := monitor.Fan(r.opt.Progress, r.opt.Metrics)
	if err := r.takeDevices(); err != nil {
		return false, errors.Join(err, shown.Close())
	}
	r.During(ctx)
	defer func() {
		r.During(nil)
		if r.member == nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = ErrInterrupted
		}
		err = errors.Join(err, shown.Close())
	}()
	for {
		did, again, err := r.walk(ctx, shown)
		worked = worked || did
		if err != nil || !again {
			return worked, err
		}
	}
}

// walk is Walk up to where phases that were set aside are put back, and the run stands elsewhere than it did: again.
func (r *Run) walk(ctx context.Context, shown monitor.Reporter) (worked, again bool, err error) {
	state, checkpoint, err := r.standing()
	if err != nil {
		return false, false, err
	}
	if r.Ladder.Done(state) { // nothing more will be recorded
		return false, false, r.finishedBefore(ctx, state)
	}
	kept, err := r.records(state)
	if err != nil {
		return false, false, err
	}
	r.report = monitor.Fan(kept, shown)
	defer func() { err = errors.Join(err, kept.Close()) }()
	if err := r.ready(ctx, state); err != nil {
		return false, false, err
	}
	if r.perSample, err = r.operations(); err != nil {
		return false, false, err
	}
	r.log.Info("TFLOP/s and mfu count " + cost.ModelCount)
	if err := r.finishedBefore(ctx, state); err != nil {
		return false, false, err
	}
	for !r.Ladder.Done(state) {
		step, err := r.Ladder.Step(state)
		if err != nil {
			return worked, false, err
		}
		if r.opt.Until != "" && r.past(step) {
			return worked, false, nil
		}
		worked = true
		if checkpoint != nil && (checkpoint.Stage != step.StageName || checkpoint.Phase != step.PhaseName) {
			checkpoint = nil
		}
		if err := r.phase(ctx, step, checkpoint); err != nil {
			return worked, false, fmt.Errorf("stage %s, phase %s: %w", step.StageName, step.PhaseName, err)
		}
		checkpoint = nil
		put, err := r.putBack(ctx, step, state)
		if err == nil {
			err = r.hear("the phase's end", &put)
		}
		if err != nil {
			return worked, false, err
		}
		if err := r.finished(ctx, step); err != nil {
			return worked, false, err
		}
		if put {
			return worked, true, nil
		}
		state.Samples = step.Samples
		if state, err = r.Ladder.Next(state, distill.Event{Kind: distill.Finished}); err != nil {
			return worked, false, err
		}
	}
	return worked, false, nil
}

// takeDevices makes the group of the devices that train together, with the recipe's networks on each.
func (r *Run) takeDevices() (err error) {
	if r.group != nil {
		return nil
	}
	if r.group, err = engine.NewGroup(r.Engine, r.each, method.ComputeTypes[r.Config.Train.Reduce], r.job(r.opt.Span)); err != nil {
		return err
	}
	for _, e := range r.Engines()[1:] {
		r.networks = append(r.networks, r.models.networks(e))
	}
	return nil
}

// records opens the files that every update is recorded in, from a state on; rank 0 alone writes them.
func (r *Run) records(from distill.State) (monitor.Reporter, error) {
	if !r.leads() {
		return monitor.Fan(), nil
	}
	stats, err := monitor.OpenStats(r.Dir.StatsPath(), r.Dir.TimingPath())
	if err != nil {
		return nil, err
	}
	events, err := monitor.OpenEvents(r.Dir.EventsPath(), r.Ladder.Position(from))
	if err != nil {
		return nil, errors.Join(err, stats.Close())
	}
	if r.account, err = monitor.ReadAccount(r.Dir.TimingPath()); err != nil {
		return nil, errors.Join(err, events.Close(), stats.Close())
	}
	return monitor.Fan(stats, events, r.account), nil
}

// ready opens the base and begins to compile what the ladder needs from a state on.
func (r *Run) ready(ctx context.Context, from distill.State) (err error) {
	if _, err := r.models.base(); err != nil {
		return err
	}
	if _, _, err := r.networks[0].Specs(); err != nil {
		return err
	}
	r.interrupt()
	r.compiling.Wait()
	ctx, r.interrupt = context.WithCancel(ctx)
	ordered := make(chan *loader, 1)
	r.ordered = ordered
	if r.loader != nil {
		ordered <- r.loader
	}
	r.compiling.Go(func() { r.compileAhead(ctx, from, ordered) })
	return nil
}

// compileAhead compiles in the background, on all cores, the programs that the rest of the ladder will need, by updates of
// each phase on a device that runs nothing: by the time a phase starts its programs are there, or in the folder of compiled
// programs. Those for the largest images come first; when the rows are in their order, those for the other shapes that a
// phase's samples have, as they come. Whatever fails here fails again, with its place, when it is used.
func (r *Run) compileAhead(ctx context.Context, from distill.State, ordered <-chan *loader) {
	_ = r.Engine.Ahead(ctx, func(e *engine.Engine) error {
		rehearse := func(step distill.Step, sizes ...method.Latents) error {
			s, err := r.session(r.networks[0].On(e), step, 0)
			if err != nil {
				return err
			}
			defer s.Free()
			return s.Rehearse(sizes...)
		}
		var l *loader
		var waiting []distill.Step // for the order
		others := func() error {
			for ; len(waiting) > 0; waiting = waiting[1:] {
				if sizes := l.others(waiting[0]); len(sizes) > 0 {
					if err := rehearse(waiting[0], sizes...); err != nil {
						return err
					}
				}
			}
			return nil
		}
		for _, step := range r.Ladder.Steps() {
			if !step.Trains() || r.opt.Until != "" && r.past(step) || step.Stage < from.Stage || step.Stage == from.Stage && step.Phase < from.Phase {
				continue
			}
			if err := rehearse(step); err != nil {
				return err
			}
			waiting = append(waiting, step)
			select {
			case l = <-ordered:
			default:
			}
			if l == nil {
				continue
			}
			if err := others(); err != nil {
				return err
			}
		}
		if shapes, err := r.Config.Data.Shapes(); err != nil || len(shapes) == 1 || len(waiting) == 0 {
			return err
		}
		select {
		case l = <-ordered:
			return others()
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// phase trains one phase from its start or from a checkpoint, and saves its result.
func (r *Run) phase(ctx context.Context, step distill.Step, checkpoint *rundir.Checkpoint) error {
	at := r.index(step)
	if !step.Trains() {
		full, _, err := r.networks[0].Specs()
		if err != nil {
			return err
		}
		return r.models.merge(ctx, step, at, full)
	}
	if r.loader == nil {
		l, err := r.newLoader(ctx, r.ordered)
		if err != nil {
			return err
		}
		r.loader, r.models.empty = l, l.empty
	}
	if r.Engine.Sites {
		r.Engine.Drop() // one phase's thousand programs take device memory that the next one's need
	}
	p := &phase{group: r.group, report: r.report, account: r.account, card: r.opt.Device, perSample: r.perSample[step.StageName+"/"+step.PhaseName], unsaved: &r.unsaved}
	for i, n := range r.networks {
		n.Weights = &files{models: r.models, at: at, checkpoint: checkpoint}
		s, err := r.session(n, step, r.process()*r.each+i)
		if err != nil {
			return err
		}
		p.workers = append(p.workers, &worker{Setup: &r.Setup, models: r.models, loader: r.loader, s: s, at: at})
	}
	p.worker = p.workers[0]
	return p.train(ctx, checkpoint)
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

// past says whether a step lies behind the stage to run until.
func (r *Run) past(step distill.Step) bool {
	for i := range r.Config.Stages {
		if r.Config.Stages[i].Name == r.opt.Until {
			return step.Stage > i
		}
	}
	return false
}

// finishedBefore repeats the after-work of phases that were done by an earlier process.
func (r *Run) finishedBefore(ctx context.Context, until distill.State) error {
	for _, step := range r.Ladder.Steps() {
		if step.Stage > until.Stage || step.Stage == until.Stage && step.Phase >= until.Phase {
			break
		}
		if err := r.finished(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) finished(ctx context.Context, step distill.Step) error {
	if !step.Final || r.opt.Finished == nil || !r.leads() {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return ErrInterrupted
	}
	finish := func() error {
		if err := r.opt.Finished(ctx, r, step); err != nil {
			return fmt.Errorf("after stage %s, phase %s: %w", step.StageName, step.PhaseName, err)
		}
		return nil
	}
	if r.member != nil {
		return r.aside.do(finish)
	}
	return finish()
}

// Finished waits for what Options.Finished does beside training.
func (r *Run) Finished() error {
	r.aside.wait.Wait()
	return r.aside.err()
}

// Made calls f for each phase that has a result, except where a later phase of its stage makes the same artifact again.
func (r *Run) Made(f func(distill.Step) error) error {
	for _, step := range r.Ladder.Steps() {
		if has, _, err := r.Dir.Begun(phaseOf(step)); err != nil || !has {
			return err
		}
		if !step.Final {
			continue
		}
		if err := f(step); err != nil {
			return err
		}
	}
	return nil
}
