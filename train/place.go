package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"fewstep/distill"
	"fewstep/train/rundir"
)

// standing makes the run directory what the ladder goes on from, and tells all ranks what that is: a checkpoint of the state's
// phase, or nil for its start.
func (r *Run) standing() (state distill.State, checkpoint *rundir.Checkpoint, err error) {
	var told struct {
		State      distill.State `json:"state"`
		Checkpoint *rundir.Point `json:"checkpoint"`
	}
	if r.leads() {
		if err := r.Finished(); err != nil { // folders may be moved
			return state, nil, err
		}
		var from *rundir.Snapshot
		if state, from, checkpoint, err = r.place(); err != nil {
			return state, nil, err
		}
		if err := r.Dir.ReadOnly(); err == nil {
			err = r.Dir.Rewind(from)
			if err != nil {
				return state, nil, err
			}
		} else if !r.Ladder.Done(state) {
			return state, nil, err
		}
		if told.State = state; checkpoint != nil {
			told.Checkpoint = &checkpoint.Point
		}
	}
	if err := r.hear("where the run stands", &told); err != nil || r.leads() {
		return state, checkpoint, err
	}
	if told.Checkpoint != nil {
		err = r.visible(func() (err error) {
			checkpoint, err = r.Dir.Checkpoint(*told.Checkpoint)
			return err
		})
	}
	return told.State, checkpoint, err
}

// place says where the ladder stands by what the directory holds: at the first phase without a result, to be continued from
// a checkpoint of it, or nil, with everything else as it was at the snapshot from. Phases after it, made before its result
// was lost, are set aside until it has one again.
func (r *Run) place() (state distill.State, from *rundir.Snapshot, checkpoint *rundir.Checkpoint, err error) {
	steps := r.Ladder.Steps()
	at := 0
	for ; at < len(steps); at++ {
		result, err := r.result(steps[at])
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return state, nil, nil, err
		}
		put, different, err := r.Dir.PutBack(result)
		if err != nil {
			return state, nil, nil, err
		}
		r.tellPutBack(steps[at], put, different)
		from = result
	}
	if at == len(steps) {
		return distill.State{Stage: len(r.Config.Stages)}, from, nil, nil
	}
	step := steps[at]
	state = distill.State{Stage: step.Stage, Phase: step.Phase}
	if err := r.takeOut(at); err != nil {
		return state, nil, nil, err
	}
	newest, skipped, err := r.Dir.LatestCheckpoint()
	if err != nil {
		return state, nil, nil, err
	}
	if newest != nil && newest.Stage == step.StageName && newest.Phase == step.PhaseName {
		from, checkpoint = newest, newest
	}
	var lost []string
	for _, s := range skipped {
		if s.Unfinished {
			continue
		}
		r.log.Warn("checkpoint passed over", "folder", s.Folder, "why", s.Why)
		if s.Phase == phaseOf(step) {
			lost = append(lost, s.String())
		}
	}
	if checkpoint == nil && len(lost) > 0 {
		return state, nil, nil, fmt.Errorf("every checkpoint of stage %s, phase %s is damaged, and nothing was changed: bring one back from a copy, or begin the phase again after 'fewstep rewind %s --to %s'\n  %s",
			step.StageName, step.PhaseName, r.Dir.Path(), phaseOf(step), strings.Join(lost, "\n  "))
	}
	if from != nil {
		done := int64(0)
		if checkpoint != nil {
			done = checkpoint.Samples
		}
		r.log.Info("continuing", "stage", step.StageName, "phase", step.PhaseName, "samples", done, "of", step.Samples)
	}
	return state, from, checkpoint, nil
}

func phaseOf(s distill.Step) rundir.Phase { return rundir.Phase{Stage: s.StageName, Name: s.PhaseName} }

// result is a phase's result; where it is damaged the error says what helps.
func (r *Run) result(step distill.Step) (*rundir.Snapshot, error) {
	result, err := r.Dir.Result(step.StageName, step.PhaseName)
	var damaged *rundir.Damaged
	if errors.As(err, &damaged) {
		return nil, fmt.Errorf("%w; bring the file back from a copy, or delete the folder: the phase is trained again, and what was made from it stays where it comes out the same", err)
	}
	return result, err
}

// takeOut sets what was made after a phase without a result aside.
func (r *Run) takeOut(hole int) error {
	steps := r.Ladder.Steps()
	var later []rundir.Phase
	for _, s := range steps[hole+1:] {
		result, checkpoint, err := r.Dir.Begun(phaseOf(s))
		if err != nil {
			return err
		}
		if result || checkpoint {
			later = append(later, phaseOf(s))
		}
	}
	if len(later) == 0 {
		return nil
	}
	if err := r.Dir.ReadOnly(); err != nil {
		return err
	}
	folder, err := r.Dir.TakeOut(phaseOf(steps[hole]), later)
	if err != nil {
		return err
	}
	r.log.Warn(fmt.Sprintf("the result of %s is missing: this phase is trained again, and the phases after it wait in %s", phaseOf(steps[hole]), folder), "phases", len(later))
	return nil
}

// putBack puts phases that takeOut has set aside back after a phase that has its result again, and says whether there
// were any. Where they do not follow from it, what was exported of them is made again as they are.
func (r *Run) putBack(ctx context.Context, step distill.Step, state distill.State) (bool, error) {
	if !r.leads() {
		return false, nil
	}
	result, err := r.result(step)
	if err != nil {
		return false, err
	}
	put, different, err := r.Dir.PutBack(result)
	if err != nil {
		return false, err
	}
	r.tellPutBack(step, put, different)
	if different != "" {
		err = r.finishedBefore(ctx, state)
	}
	return put > 0, err
}

func (r *Run) tellPutBack(step distill.Step, put int, different string) {
	if put > 0 {
		r.log.Info(fmt.Sprintf("%s came out the same as before: the phases after it are back in their place", phaseOf(step)), "phases", put)
	}
	if different != "" {
		r.log.Warn(fmt.Sprintf("%s came out otherwise than before: the phases after it are trained again", phaseOf(step)), "the old ones", different)
	}
}
