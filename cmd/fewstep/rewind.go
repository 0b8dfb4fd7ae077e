package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/distill"
	"fewstep/eval"
	"fewstep/train/rundir"
)

func init() { register(newRewind) }

func newRewind(a *app) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "rewind RUN",
		Short: "Take a run back to the start of a phase or to an earlier checkpoint, or list where it can go back to.",
		Long: "Without --to, lists the points that a run can be taken back to.\n\n" +
			"Nothing is deleted: what was made later is moved to the folder aside/ of the run directory, with the statistics as they\n" +
			"were; exports, sheets and report go with it, and 'fewstep run' makes those that are still due again.",
		Example: "  fewstep rewind runs/demo\n  fewstep rewind runs/demo --to 8/lora-cond\n  fewstep rewind runs/demo --to 8/lora-cond/3200",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			points, steps, err := rewindPoints(args[0])
			if err != nil {
				return err
			}
			if to == "" {
				return a.printPoints(points)
			}
			i := slices.IndexFunc(points, func(p rewindPoint) bool { return p.To == to })
			if i < 0 {
				return withHint(usageErrorf("the run cannot be taken back to %q", to), "'fewstep rewind %s' lists where it can", args[0])
			}
			return a.rewind(args[0], points[i], steps)
		},
	}
	c.Flags().StringVar(&to, "to", "", "STAGE/PHASE for the phase's start, STAGE/PHASE/SAMPLES for a checkpoint of it")
	return c
}

// rewindPoint is a state that a run directory still holds.
type rewindPoint struct {
	To       string `json:"to"`       // STAGE/PHASE or STAGE/PHASE/SAMPLES
	Position int64  `json:"position"` // samples of the whole run that are done there

	step int              // the phase that is current there
	from *rundir.Snapshot // nil: the run's very start
}

// rewindPoints lists a run's points in the order of the ladder: the start of every phase whose predecessors have their
// results, and the checkpoints.
func rewindPoints(dir string) ([]rewindPoint, []distill.Step, error) {
	d, c, err := eval.ViewRun(dir)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	ladder, err := distill.NewLadder(c, distill.Epsilon)
	if err != nil {
		return nil, nil, err
	}
	checkpoints, err := d.Checkpoints()
	if err != nil {
		return nil, nil, err
	}
	var out []rewindPoint
	var from *rundir.Snapshot
	for i, step := range ladder.Steps() {
		name := step.Path()
		out = append(out, rewindPoint{name, step.First, i, from})
		for _, c := range slices.Backward(checkpoints) { // they come newest first
			if c.Stage == step.StageName && c.Phase == step.PhaseName {
				out = append(out, rewindPoint{name + "/" + strconv.FormatInt(c.Samples, 10), c.Position, i, c})
			}
		}
		from, err = d.Result(step.StageName, step.PhaseName)
		var damaged *rundir.Damaged
		if errors.Is(err, fs.ErrNotExist) || errors.As(err, &damaged) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return out, ladder.Steps(), nil
}

func (a *app) printPoints(points []rewindPoint) error {
	if a.json {
		return a.writeJSON(points)
	}
	for _, p := range points {
		kind := "the phase's start"
		if strings.Count(p.To, "/") > 1 {
			kind = "a checkpoint"
		}
		fmt.Fprintf(a.stdout, "%-32s %12d samples of the run  %s\n", p.To, p.Position, kind)
	}
	return nil
}

func (a *app) rewind(dir string, to rewindPoint, steps []distill.Step) error {
	d, err := rundir.Resume(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	d.Told = func(sentence string) { a.log.Info(sentence) }
	var phases []rundir.Phase
	for _, s := range steps[to.step:] {
		phases = append(phases, rundir.Phase{Stage: s.StageName, Name: s.PhaseName})
	}
	folder, err := d.GoBack(to.from, phases[0], phases[1:])
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(map[string]any{"run": dir, "to": to.To, "position": to.Position, "aside": folder})
	}
	fmt.Fprintf(a.stdout, "%s stands at %s; what was later is in %s\n", dir, to.To, folder)
	return nil
}
