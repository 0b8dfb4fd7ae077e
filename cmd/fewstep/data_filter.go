package main

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/data/filter"
	"fewstep/data/source"
	"fewstep/train/monitor"
)

// filtered is what the command tells.
type filtered struct {
	Source  string           `json:"source"`
	Rows    int              `json:"rows"`
	Kept    int              `json:"kept"`
	Filters []filter.Outcome `json:"filters"`
	Out     string           `json:"out,omitempty"`
}

func newDataFilter(a *app) *cobra.Command {
	var where []string
	var recipe, out string
	var s filter.Settings
	names := slices.Sorted(maps.Keys(filter.Recipes))
	c := &cobra.Command{
		Use:   "filter SOURCE --where EXPRESSION...",
		Short: "Choose rows of a data set by expressions.",
		Long: "Chooses rows of a data set by expressions.\n\nIt tells what each of them removed, and writes the choice as a source of its own: a\n" +
			"parquet file of row, key, shard, caption and licence, which two people can compare and data.source takes.\n\n" +
			"An expression asks for columns of the source in any case (aesthetic, unsafe, watermark and similarity stand for their\n" +
			"usual names), and for key, caption, words, width, height, pixels, ratio, format, bytes and sharpness: the variance of the\n" +
			"Laplacian, measured on the image resized to --resolution. Filters apply in their order: put those that read the image last.\n\n" + sourcesHelp,
		Example: "  fewstep data filter laion/ --where 'aesthetic >= 5.5 and punsafe < 0.1' --where 'min(width, height) >= 1024' --out kept.parquet\n" +
			"  fewstep data filter 's3://laion/{00000..00127}.tar' --recipe paper --out kept.parquet",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			texts := where
			if recipe != "" {
				known, ok := filter.Recipes[recipe]
				if !ok {
					return usageErrorf("there is no recipe %q; there is %s", recipe, strings.Join(names, ", "))
				}
				texts = append(slices.Clone(known), texts...)
			}
			if len(texts) == 0 {
				return withHint(usageErrorf("no filter"), "give --where or --recipe")
			}
			var filters []*filter.Filter
			for _, text := range texts {
				f, err := filter.Compile(text)
				if err != nil {
					return withCode(exitUsage, err)
				}
				filters = append(filters, f)
			}
			return a.filterData(cmd, args[0], filters, texts, out, s)
		},
	}
	c.Flags().StringArrayVar(&where, "where", nil, "keep rows of which this is true; may be given several times")
	c.Flags().StringVar(&recipe, "recipe", "", "filters by name, before --where: "+strings.Join(names, "|"))
	c.Flags().StringVar(&out, "out", "", "write the rows that are kept to this parquet file")
	c.Flags().BoolVar(&s.Hash, "hash", false, "write the SHA-256 of every image that is kept")
	c.Flags().IntVar(&s.Side, "resolution", 1024, "side of training in pixels, at which sharpness is measured")
	return c
}

func (a *app) filterData(cmd *cobra.Command, address string, filters []*filter.Filter, texts []string, out string, s filter.Settings) error {
	f, err := a.openSource(cmd, address, false)
	if err != nil {
		return err
	}
	defer f.Close()
	s.Progress = monitor.LogProgress(a.log, "filtering", "rows", 0)
	told := filtered{Source: address, Rows: f.Len(), Out: out}
	run := func(kept func(source.Selected) error) (err error) {
		told.Filters, err = filter.Run(cmd.Context(), f, filters, s, func(row source.Selected) error {
			told.Kept++
			return kept(row)
		})
		return err
	}
	if out == "" {
		err = run(func(source.Selected) error { return nil })
	} else {
		if !strings.Contains(address, "://") {
			if address, err = filepath.Abs(address); err != nil {
				return err
			}
		}
		rows, done := make(chan source.Selected, 1024), make(chan error, 1)
		stop := make(chan struct{})
		go func() {
			done <- run(func(row source.Selected) error {
				select {
				case rows <- row:
					return nil
				case <-stop:
					return io.ErrClosedPipe
				}
			})
			close(rows)
		}()
		err = source.WriteSelection(out, address, f, texts, func() (source.Selected, error) {
			row, ok := <-rows
			if !ok {
				if err := <-done; err != nil {
					return row, err
				}
				if told.Kept == 0 {
					return row, noneKept(told)
				}
				return row, io.EOF
			}
			return row, nil
		})
		close(stop)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(told)
	}
	w := &lines{to: a.stdout}
	w.printf("%s: %d rows\n", told.Source, told.Rows)
	for _, o := range told.Filters {
		w.printf("  %s\n    removed %d of %d", o.Filter, o.Removed+o.Lacking+o.Broken, o.Rows)
		if o.Lacking > 0 {
			w.printf(", %d of them without a value", o.Lacking)
		}
		if o.Broken > 0 {
			w.printf(", %d of them unreadable", o.Broken)
		}
		w.printf("\n")
		for _, e := range o.Examples {
			w.printf("      %s\n", short(e))
		}
	}
	w.printf("  kept %d\n", told.Kept)
	return w.err
}

// noneKept says which filter removed the last rows.
func noneKept(told filtered) error {
	for _, o := range told.Filters {
		if o.Rows > 0 && o.Rows == o.Removed+o.Lacking+o.Broken {
			err := fmt.Errorf("no row is kept: %s removed the last %d", o.Filter, o.Rows)
			if o.Lacking == o.Rows {
				return withHint(err, "no row has a value for it: 'fewstep data inspect' lists the columns")
			}
			return withHint(err, "as %s", strings.Join(o.Examples[:min(2, len(o.Examples))], ", "))
		}
	}
	return fmt.Errorf("no row is kept")
}
