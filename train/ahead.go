package train

import (
	"context"

	"fewstep/distill"
	"fewstep/engine"
)

// compileAhead compiles in the background, on all cores, the programs that the rest of the ladder will need, by an update of
// each phase on a device that runs nothing: by the time a phase starts its programs are there, or in the folder of compiled
// programs. Whatever fails here fails again, with its place, when it is used.
func (r *Run) compileAhead(ctx context.Context, from distill.State) {
	_ = r.Engine.Ahead(ctx, func(e *engine.Engine) error {
		for _, step := range r.Ladder.Steps() {
			if !step.Trains() || r.opt.Until != "" && r.past(step) || step.Stage < from.Stage || step.Stage == from.Stage && step.Phase < from.Phase {
				continue
			}
			s, err := r.session(r.networks.On(e), step, 0)
			if err != nil {
				return err
			}
			if err := s.Rehearse(); err != nil {
				return err
			}
			s.Free()
		}
		return nil
	})
}
