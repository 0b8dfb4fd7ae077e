package main

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/configs"
	"fewstep/engine"
	"fewstep/eval"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/rundir"
)

func init() { register(newReport) }

func newReport(a *app) *cobra.Command {
	var rivals []string
	c := &cobra.Command{
		Use:   "report RUN",
		Short: "Write a run's report again from what the run has saved, with the measured time per image.",
		Long: "Writes report/index.html, metrics.csv and metrics.json of a run that has been evaluated.\n" +
			"Of the run itself nothing is measured again. The times per image come from the run's timing.jsonl; they differ from one\n" +
			"run of a recipe to the next, so the report that 'fewstep run' itself writes is without them and always the same.\n\n" +
			"--rival sets the models of another run beside this one's, such as a ladder without adversarial phases: its figures are\n" +
			"those of its own report where that was measured by the same protocol, else its exported models are measured now.\n" +
			"The recipe's key eval.rivals does the same when the run itself is measured.",
		Example: "  fewstep report runs/demo\n  fewstep report runs/full --rival runs/mse-only",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.report(cmd, args[0], rivals) },
	}
	c.Flags().StringArrayVar(&rivals, "rival", nil, "another run whose models stand beside this one's; repeat for several")
	return c
}

func (a *app) report(cmd *cobra.Command, dir string, rivals []string) error {
	d, err := rundir.View(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	t, err := eval.ReadTable(d)
	if err != nil {
		return err
	}
	if len(rivals) > 0 {
		if err := a.addRivals(cmd, d, t, rivals); err != nil {
			return err
		}
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

// addRivals adds the models of other runs to the table of a run. A backend is opened only where there is something to
// measure.
func (a *app) addRivals(cmd *cobra.Command, d *rundir.Dir, t *eval.Table, rivals []string) error {
	raw, err := d.Config()
	if err != nil {
		return err
	}
	c, err := configs.Parse(raw, d.Path("config.yaml"))
	if err != nil {
		return err
	}
	s := eval.Spec{Config: c, BaseWeights: d.Lineage().BaseWeights, Progress: a.evalProgress(), Warn: func(text string) { a.log.Warn(text) }}
	s.Keep(d)
	var rt *xla.Runtime
	defer func() {
		if rt != nil {
			rt.Close()
		}
	}()
	for _, dir := range rivals {
		if err := t.AddRival(cmd.Context(), &s, dir, func() error {
			if rt != nil {
				return nil
			}
			if s.Pipeline, err = pipeline.Open(c.ModelPath()); err != nil {
				return err
			}
			if rt, err = a.openBackend(xla.Options{}); err != nil {
				return err
			}
			s.Engine = engine.New(rt.Backend, dtypes.Float32, nn.Network)
			s.Engine.Context = cmd.Context()
			s.Base = s.Loader(s.Pipeline, "", "")
			s.Drawers, err = drawersOf(cmd.Context(), rt, 1, c.Train.Compute, &s)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
