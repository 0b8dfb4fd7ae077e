package main

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// evalReport is what stands on the page of an evaluation beside its table.
func evalReport(cmd *cobra.Command, entries []eval.Entry) *report.Report {
	r := &report.Report{Title: "Evaluation", Summary: "Every model was measured with the same prompts and the same starting noise."}
	for _, e := range entries {
		for _, f := range e.Files {
			f.Name = e.Model + ": " + f.Name
			if !slices.Contains(r.Lineage, f) {
				r.Lineage = append(r.Lineage, f)
			}
		}
	}
	r.Commands = []report.Command{{Purpose: "Measure again, or continue, from the same working directory", Line: commandLine(cmd)}}
	return r
}

// commandLine is the command with the flags that were given, for a shell.
func commandLine(cmd *cobra.Command) string {
	line := cmd.CommandPath()
	cmd.Flags().Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if strings.HasSuffix(f.Value.Type(), "Slice") {
			value = strings.Trim(value, "[]")
		}
		if value == "" || strings.ContainsAny(value, " '\"$\\&;<>()*?") {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		line += " --" + f.Name + "=" + value
	})
	return line
}

// follow measures the models of a run as they appear.
func (a *app) follow(cmd *cobra.Command, s eval.Spec, d *rundir.Dir, o evalOptions) error {
	s.Config.Model = s.Pipeline.Dir
	s.Base, s.BaseWeights = s.Loader(s.Pipeline, "", ""), d.Lineage().BaseWeights
	v, err := eval.Open(cmd.Context(), s)
	if err != nil {
		return err
	}
	defer v.Close()
	page := filepath.Join(o.out, "index.html")
	err = v.Follow(cmd.Context(), d, s.Config, o.every, func(t *eval.Table, entries []eval.Entry, models, of int) error {
		r, err := eval.NewReport(d, t)
		if err != nil {
			return err
		}
		r.Facts = nil // WriteFolder adds the table's
		own := evalReport(cmd, entries)
		r.Commands = append(own.Commands, r.Commands...)
		if models < of {
			r.Warnings = append(r.Warnings, fmt.Sprintf("The run goes on: %d of the %d models of its ladder are on this page.", models, of))
		}
		if err := eval.WriteFolder(o.out, t, r); err != nil {
			return err
		}
		a.log.Info("report", "file", page, "models", fmt.Sprintf("%d/%d", models, of))
		return nil
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(map[string]string{"report": page})
	}
	fmt.Fprintln(a.stdout, page)
	return nil
}

// evalProgress shows how far an evaluation is, with the time that is left.
func (a *app) evalProgress() func(eval.Progress) {
	if a.quiet {
		return func(eval.Progress) {}
	}
	style := monitor.StyleLines
	if a.json {
		style = monitor.StyleJSON
	}
	line := monitor.NewProgress(a.stderr, style, 10*time.Second)
	return func(p eval.Progress) {
		switch {
		case p.Row == 0:
			_ = line.Update(monitor.Record{Kind: monitor.KindStep, Stage: p.Model, Phase: "looked at", Samples: int64(p.Done), Total: int64(p.Total), Position: int64(p.Done), RunTotal: int64(p.Total)})
		case p.Saved:
			a.log.Info(fmt.Sprintf("row %d of %d was measured before", p.Row, p.Rows), "model", p.Model, "steps", p.Steps, "calls", p.Calls)
		default:
			_ = line.Update(monitor.Record{Kind: monitor.KindStep, Stage: fmt.Sprintf("row %d/%d %s", p.Row, p.Rows, p.Model), Phase: fmt.Sprintf("%d steps, %d calls", p.Steps, p.Calls),
				Samples: int64(p.Done), Total: int64(p.Total), Position: int64((p.Row-1)*p.Total + p.Done), RunTotal: int64(p.Rows * p.Total)})
		}
	}
}

// writeTable prints rows for people, or as JSON.
func (a *app) writeTable(t *eval.Table) error {
	type row struct {
		Model      string      `json:"model"`
		Steps      int         `json:"steps"`
		Calls      int         `json:"calls"`
		Kind       report.Kind `json:"kind"`
		Metric     string      `json:"metric"`
		Convention string      `json:"convention"`
		Value      float64     `json:"value"`
		Low        *float64    `json:"low"`
		High       *float64    `json:"high"`
		Samples    int         `json:"samples"`
	}
	if a.json {
		rows := make([]row, len(t.Rows))
		for i, r := range t.Rows {
			rows[i] = row{r.Model, r.Steps, r.Calls, r.Kind, r.Metric, r.Convention, r.Value, nil, nil, r.Samples}
			if r.HasInterval() {
				rows[i].Low, rows[i].High = &t.Rows[i].Low, &t.Rows[i].High
			}
		}
		return a.writeJSON(rows)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tKIND\tSTEPS\tCALLS\tMETRIC\tVALUE\tLOW\tHIGH\tSAMPLES")
	for _, r := range t.Rows {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s [%s]\t%.4g\t%s\t%s\t%d\n", r.Model, r.Kind, r.Steps, r.Calls, r.Metric, r.Convention, r.Value, bound(r.Low), bound(r.High), r.Samples)
	}
	return w.Flush()
}

func bound(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.4g", v)
}
