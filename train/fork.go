package train

import (
	"fmt"
	"strings"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/train/rundir"
)

// Fork says that a new run begins with the results of another one.
type Fork struct {
	Run  string // the other run's directory
	From string // the first stage that is trained anew, or STAGE/PHASE; "" = the first phase that depends on what the recipes differ in
}

// ForkRefused says why a run cannot begin with another's results.
type ForkRefused struct {
	Run, Why string
	Hint     string // what to do instead
}

func (e *ForkRefused) Error() string { return fmt.Sprintf("cannot fork %s: %s", e.Run, e.Why) }

// fork makes the run directory of another run's results where Options ask for it and the directory is not there yet.
// Of a directory that is there it only checks that it is such a fork: the same command continues it, also where the
// other run is gone.
func (r *Run) fork(lineage rundir.Lineage) error {
	f := r.opt.Fork
	if f == nil {
		return nil
	}
	born, made, err := rundir.Born(r.opt.Dir)
	if err != nil {
		return err
	}
	from, count := "", 0
	if f.From != "" {
		steps, err := r.Ladder.Before(f.From)
		if err != nil {
			return &ForkRefused{f.Run, err.Error(), "name a stage of the recipe after --from, or a phase as STAGE/PHASE"}
		}
		from, count = r.Ladder.Steps()[len(steps)].Path(), len(steps)
	}
	if born {
		switch {
		case made.Forked == nil:
			return &ForkRefused{f.Run, fmt.Sprintf("%s is a run directory already, and began with no other run's results", r.opt.Dir), "leave --fork out to continue it, or use another --dir"}
		case from != "" && made.Forked.From != from:
			return &ForkRefused{f.Run, fmt.Sprintf("%s is a run directory already, and was not forked from phase %s on", r.opt.Dir, from), "leave --fork out to continue it, or use another --dir"}
		}
		return nil
	}
	source, err := rundir.View(f.Run)
	if err != nil {
		return fmt.Errorf("run to fork: %w", err)
	}
	defer source.Close()
	config, err := source.Config()
	if err != nil {
		return err
	}
	other, err := configs.Parse(config, source.Path("config.yaml"))
	if err != nil {
		return err
	}
	if from == "" {
		if count, err = distill.Shared(other, r.Config); err != nil {
			return err
		}
		if count == 0 {
			return &ForkRefused{f.Run, "the recipes differ in what the first phase depends on", "run this recipe without --fork"}
		}
		from = r.Ladder.Steps()[count].Path()
	}
	steps := r.Ladder.Steps()[:count]
	differences, err := distill.DiffBefore(other, r.Config, count)
	if err != nil {
		return err
	}
	theirs := source.Lineage()
	for _, c := range rundir.DiffLineage(theirs, lineage) {
		differences = append(differences, c.String())
	}
	if len(differences) > 0 {
		return &ForkRefused{f.Run, "the recipes or their inputs differ in what the phases before " + from + " depend on:\n  " + strings.Join(differences, "\n  "),
			"fork from an earlier stage, or set these keys back"}
	}
	var phases []rundir.ForkedResult
	for _, s := range steps {
		phases = append(phases, rundir.ForkedResult{Stage: s.StageName, Phase: s.PhaseName})
	}
	if err := rundir.Fork(r.opt.Dir, r.Config.Resolved(), lineage, source, from, phases); err != nil {
		return err
	}
	r.log.Info("forked", "run", f.Run, "phases taken over", len(phases), "continues with", from)
	return nil
}
