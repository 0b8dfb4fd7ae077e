package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/model/inspect"
)

func init() { register(newInspect) }

func newInspect(a *app) *cobra.Command {
	var values bool
	c := &cobra.Command{
		Use:   "inspect FILE|DIR",
		Short: "Say what a weights file or model directory is.",
		Long: "Says what a weights file or model directory is.\n\n" +
			"Its kind and family by the tensors' names and shapes, sizes, element types, metadata, whether it is whole, and what\n" +
			"loads it. That takes the header alone, whatever the size; --values reads everything: whether every value is finite,\n" +
			"and whether the data is what its metadata's hash says. A problem ends with exit code 1.",
		Example: "  fewstep inspect juggernaut.safetensors\n  fewstep inspect assets/mini --values --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.localAll(cmd.Context(), &args[0]); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(args[0], "lineage.json")); err == nil {
				return withHint(fmt.Errorf("%s is a run directory, not a model", args[0]), "'fewstep check' examines it; its models lie in %s", filepath.Join(args[0], "exports"))
			}
			progress := a.byteProgress("inspect")
			defer progress.Close()
			reports, err := inspect.Path(args[0], inspect.Options{Values: values, Progress: progress.update})
			if err == nil {
				err = progress.Close()
			}
			if err != nil {
				return err
			}
			return a.printInspected(reports)
		},
	}
	c.Flags().BoolVar(&values, "values", false, "read every value")
	return c
}

func (a *app) printInspected(reports []inspect.Report) error {
	if a.json {
		if err := a.writeJSON(reports); err != nil {
			return err
		}
	} else {
		for _, r := range reports {
			a.printReport(r)
		}
	}
	var problems, bad, changed []string
	for _, r := range reports {
		for _, p := range r.Problems {
			if !strings.HasPrefix(p, r.Path) {
				p = r.Path + ": " + p
			}
			problems = append(problems, p)
		}
		if r.Hash == inspect.Differs {
			changed = append(changed, r.Path)
		}
		for _, name := range r.NotFinite {
			bad = append(bad, r.Path+": tensor "+name)
		}
	}
	switch {
	case len(problems) > 0:
		return errors.New(some(problems))
	case len(changed) > 0:
		return fmt.Errorf("the data of %s is not what its metadata's modelspec.hash_sha256 says: the file was changed or damaged", strings.Join(changed, ", "))
	case len(bad) > 0:
		return fmt.Errorf("values are not finite in %s", some(bad))
	}
	return nil
}

func (a *app) printReport(r inspect.Report) {
	kind := string(r.Kind)
	if r.Family != "" {
		kind += " of " + r.Family
	}
	if r.Detail != "" {
		kind += ": " + r.Detail
	}
	whole := "yes"
	if n := len(r.Problems); n > 0 {
		whole = "no: " + strings.Join(r.Problems[:min(n, 3)], "; ")
	}
	values, hash := "not read (--values)", "not checked (--values)"
	if r.Values {
		values, hash = "all finite", cmp.Or(r.Hash, "none given")
		if n := len(r.NotFinite); n > 0 {
			values = fmt.Sprintf("NaN or infinity in %d tensors", n)
		} else if n := len(r.Unread); n > 0 {
			values = fmt.Sprintf("finite in all but %d tensors of types that are not checked", n)
		}
	}
	fmt.Fprintf(a.stdout, "%s\n  kind        %s\n  tensors     %d (%s)\n  parameters  %s\n  size        %s\n  whole       %s\n  values      %s\n  hash        %s\n  loaded by   %s\n",
		r.Path, kind, r.Tensors, r.Types(), count(float64(r.Parameters)), bytesText(r.Bytes), whole, values, hash, r.LoadedBy)
	for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
		fmt.Fprintf(a.stdout, "  %s = %s\n", key, short(r.Metadata[key]))
	}
}

// short cuts a metadata value to one line.
func short(v string) string {
	v = strings.Join(strings.Fields(v), " ")
	if r := []rune(v); len(r) > 100 {
		return string(r[:100]) + "…"
	}
	return v
}

// count is a number with three digits and a unit: "2.57 G".
func count(n float64) string {
	return scaled(n, 1000, []string{"", " k", " M", " G", " T", " P", " E"})
}

func scaled(n, base float64, units []string) string {
	i := 0
	for n >= base && i < len(units)-1 {
		n /= base
		i++
	}
	if i == 0 || n >= 999.5 {
		return fmt.Sprintf("%.0f%s", n, units[i])
	}
	return fmt.Sprintf("%.3g%s", n, units[i])
}
