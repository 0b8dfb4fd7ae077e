package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"fewstep/train/rundir"
)

func init() { register(newCheck) }

func newCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check RUN",
		Short: "Verify every file of a run directory against its manifests.",
		Long: "Verifies every file of a run directory against its manifests.\n\n" +
			"Sizes and SHA-256 of checkpoints, results, exports, sheets and report, the recipe against the lineage, and the form\n" +
			"of the statistics. It changes nothing.\n\n" +
			"Damage ends with exit code 1. Harmless leftovers of an interrupted process are listed and do not.",
		Example: "  fewstep check runs/demo\n  fewstep check runs/demo --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			problems, err := rundir.Check(args[0])
			if err != nil {
				return err
			}
			return a.printProblems(args[0], problems)
		},
	}
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
			"'fewstep run' falls back to the newest sound checkpoint; "+
				"delete a damaged export and 'fewstep export' writes it again, delete a damaged result's folder and its phase is trained again")
	}
	return nil
}
