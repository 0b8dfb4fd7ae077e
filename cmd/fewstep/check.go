package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"fewstep/distill"
	"fewstep/eval"
	"fewstep/train/export"
	"fewstep/train/monitor"
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
			"It also tells the run's goodput: the share of its time that went into updates that it kept.\n\n" +
			"Damage ends with exit code 1. Harmless leftovers of an interrupted process, and phases whose student hardly moved, are\n" +
			"listed and do not.",
		Example: "  fewstep check runs/demo\n  fewstep check runs/demo --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			problems, err := checkRun(args[0])
			if err != nil {
				return err
			}
			still, err := hardlyMoved(args[0])
			if err != nil {
				return err
			}
			goodput, err := monitor.ReadGoodput(filepath.Join(args[0], "timing.jsonl"))
			if err == nil && goodput.Updates > 0 { // Check has said what is wrong with the file
				still = append(still, goodput.String())
			}
			return a.printProblems(args[0], problems, still)
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
	ladder, err := distill.NewLadder(c, distill.Epsilon)
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

// hardlyMoved names the phases whose student made fewer than [monitor.FewUpdates] updates: nothing is damaged, and yet what
// they made is nearly what they started from.
func hardlyMoved(dir string) (notes []string, err error) {
	d, err := rundir.View(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	records, err := monitor.ReadStats(d.StatsPath())
	if err != nil {
		return nil, nil // Check has said what is wrong with them
	}
	for _, m := range monitor.CountMoves(records) {
		if !m.Few() {
			continue
		}
		note := fmt.Sprintf("stage %s, phase %s: its student moved in %d updates", m.Stage, m.Phase, m.Student)
		if m.Discriminator > 0 {
			note += fmt.Sprintf(", its discriminator in %d", m.Discriminator)
		}
		notes = append(notes, note+"; its model is nearly the one that it started from")
	}
	return notes, nil
}

func (a *app) printProblems(dir string, problems []rundir.Problem, notes []string) error {
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
		if notes == nil {
			notes = []string{}
		}
		if err := a.writeJSON(map[string]any{"run": dir, "sound": damaged == 0, "problems": problems, "notes": notes}); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(a.stdout, p)
		}
		for _, note := range notes {
			fmt.Fprintln(a.stdout, note)
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
