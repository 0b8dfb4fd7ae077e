package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/eval/ablation"
	"fewstep/internal/atomicfile"
)

func init() { register(newCompare) }

func newCompare(a *app) *cobra.Command {
	var format, sheet, page, acceptance string
	var calls int
	c := &cobra.Command{
		Use:   "compare RUN...",
		Short: "Set runs side by side, as the table of an ablation: every metric of every model, seeds put together.",
		Long: "Sets runs side by side, as the table of an ablation.\n\n" +
			"Runs that differ in their seed alone are one row, with the spread over the seeds. Ratios are to the same run's teacher. The first recipe is what the others are compared with: better or\n" +
			"worse is said only where it holds in every seed, by the interval of the paired difference.\n\n" +
			"--page writes the whole page of an ablation: README.md with what every row changes and what came of it, how the first recipe\n" +
			"stands against its opponents and targets, and pictures.\n\n" +
			"The runs must have been evaluated, as 'fewstep run' does at its end. Nothing is measured and nothing is changed.",
		Example: "  fewstep compare runs/full-1 runs/full-2 runs/full-3 runs/mse-1 runs/mse-2 runs/mse-3\n" +
			"  fewstep compare runs/full runs/mse-only --format csv --sheet one-step.png --calls 1 > ablation.csv\n" +
			"  fewstep compare runs/ablation/small/* --page examples/ablation --acceptance runs/ablation/acceptance",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if a.json {
				format = "json"
			}
			return a.compare(args, format, sheet, calls, page, acceptance)
		},
	}
	c.Flags().StringVar(&format, "format", "markdown", "markdown, csv or json")
	c.Flags().StringVar(&sheet, "sheet", "", "also write a PNG of what the models draw here, one prompt and noise per row")
	c.Flags().StringVar(&page, "page", "", "write the page into this folder instead of a table to stdout")
	c.Flags().StringVar(&acceptance, "acceptance", "", "with --page: folder that 'fewstep eval accept --out' wrote")
	c.Flags().IntVar(&calls, "calls", 4, "network calls of the models on the sheet")
	return c
}

func (a *app) compare(dirs []string, format, sheet string, calls int, page, acceptance string) error {
	if !strings.Contains(" markdown csv json ", " "+format+" ") {
		return usageErrorf("--format is %q; it must be markdown, csv or json", format)
	}
	t, err := ablation.Read(dirs)
	if err != nil {
		return err
	}
	for _, note := range t.Notes {
		a.log.Warn(note)
	}
	if sheet != "" {
		png, err := t.Sheet(calls)
		if err != nil {
			return err
		}
		if err := atomicfile.WriteBytes(sheet, png); err != nil {
			return err
		}
	}
	if page != "" {
		return a.writePage(t, page, acceptance)
	}
	switch format {
	case "csv":
		return t.WriteCSV(a.stdout)
	case "json":
		return a.writeJSON(map[string]any{"cells": t.Cells(), "phases": t.Phases(), "targets": append([]ablation.Target{}, t.Targets()...), "notes": append([]string{}, t.Notes...)})
	}
	if err := t.WriteMarkdown(a.stdout); err != nil {
		return err
	}
	return t.WriteTargets(a.stdout)
}

// writePage writes the page of an ablation and says where it is.
func (a *app) writePage(t *ablation.Ablation, dir, acceptance string) error {
	if err := t.WritePage(dir, ablation.Page{Acceptance: acceptance}); err != nil {
		return err
	}
	a.log.Info("written", "page", filepath.Join(dir, "README.md"))
	return nil
}
