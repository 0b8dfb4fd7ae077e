package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"fewstep/distill"
	"fewstep/eval"
	"fewstep/train/export"
	"fewstep/train/rundir"
)

func init() { register(newCheck) }

func newCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check RUN",
		Short: "Verify every file of a run directory against its manifests.",
		Long: "Verifies every file of a run directory against its manifests.\n\n" +
			"Sizes and SHA-256 of checkpoints, results, exports, sheets, report and encodings; the recipe, the lineage, the state of\n" +
			"the data set and the statistics against their digests; weights and optimizer states that are not finite; results that\n" +
			"are missing though something was made from them; exports that are due. It changes nothing.\n\n" +
			"Damage ends with exit code 1. Harmless leftovers of an interrupted process are listed and do not.",
		Example: "  fewstep check runs/demo\n  fewstep check runs/demo --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			problems, err := checkRun(args[0])
			if err != nil {
				return err
			}
			return a.printProblems(args[0], problems)
		},
	}
}

// checkRun checks a run directory with its ladder, where its recipe can be read.
func checkRun(dir string) ([]rundir.Problem, error) {
	d, c, err := eval.ViewRun(dir)
	if err != nil {
		return rundir.Check(dir)
	}
	defer d.Close()
	ladder, err := distill.NewLadder(c)
	if err != nil {
		return rundir.Check(dir)
	}
	var phases []rundir.Phase
	for _, s := range ladder.Steps() {
		phases = append(phases, rundir.Phase{Stage: s.StageName, Name: s.PhaseName})
	}
	problems, err := rundir.Check(dir, phases...)
	if err != nil {
		return nil, err
	}
	owed, err := export.Missing(d, ladder.Steps())
	if err != nil {
		return nil, err
	}
	for _, s := range owed {
		problems = append(problems, rundir.Problem{Path: rundir.Exports + "/" + export.Name(s), What: "it or a file that belongs to it is due: 'fewstep run' and 'fewstep export' write it", Harmless: true})
	}
	return problems, nil
}

func (a *app) printProblems(dir string, problems []rundir.Problem) error {
	damaged := 0
	for _, p := range problems {
		if !p.Harmless {
			damaged++
		}
	}
	if a.json {
		if problems == nil {
			problems = []rundir.Problem{}
		}
		if err := a.writeJSON(map[string]any{"run": dir, "sound": damaged == 0, "problems": problems}); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(a.stdout, p)
		}
		if damaged == 0 {
			fmt.Fprintf(a.stdout, "%s: sound\n", dir)
		}
	}
	if damaged > 0 {
		return withHint(fmt.Errorf("%s: %d damaged", dir, damaged),
			"'fewstep run' goes on from the newest sound checkpoint, makes damaged exports, sheets, encodings and reports again, "+
				"and trains a phase again whose result is missing: delete a damaged result's folder, or bring its files back from a copy")
	}
	return nil
}
