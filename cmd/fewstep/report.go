package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"fewstep/eval"
	"fewstep/train/rundir"
)

func init() { register(newReport) }

func newReport(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "report RUN",
		Short: "Write a run's report again from what the run has saved, with the measured time per image.",
		Long: "Writes report/index.html, metrics.csv and metrics.json of a run that has been evaluated.\n" +
			"Nothing is measured again. The times per image come from the run's timing.jsonl; they differ from one run of a\n" +
			"recipe to the next, so the report that 'fewstep run' itself writes is without them and always the same.",
		Example: "  fewstep report runs/demo",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.report(args[0]) },
	}
}

func (a *app) report(dir string) error {
	d, err := rundir.View(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	t, err := eval.ReadTable(d)
	if err != nil {
		return err
	}
	times, err := eval.ReadTimings(d.TimingPath())
	if err != nil {
		return err
	}
	if err := eval.WriteReport(d, t, times); err != nil {
		return err
	}
	page := d.ArtifactPath(rundir.Report, "index.html")
	if a.json {
		return a.writeJSON(map[string]string{"report": page})
	}
	fmt.Fprintln(a.stdout, page)
	return nil
}
