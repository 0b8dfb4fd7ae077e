package main

import (
	"cmp"
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
	return &cobra.Command{
		Use:   "inspect FILE|DIR",
		Short: "Say what a weights file or model directory is.",
		Long: "Says what a weights file or model directory is.\n\n" +
			"Its kind by the tensors' names, sizes, element types, metadata, whether every value is finite, and what loads it.\n" +
			"Values that are not finite, and data that is not what its metadata's hash says, end with exit code 1.",
		Example: "  fewstep inspect runs/demo/exports/8step_lora.safetensors\n  fewstep inspect assets/mini --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := os.Stat(filepath.Join(args[0], "lineage.json")); err == nil {
				return withHint(fmt.Errorf("%s is a run directory, not a model", args[0]), "'fewstep check' examines it; its models lie in %s", filepath.Join(args[0], "exports"))
			}
			reports, err := inspect.Path(args[0])
			if err != nil {
				return err
			}
			return a.printInspected(reports)
		},
	}
}

func (a *app) printInspected(reports []inspect.Report) error {
	var bad, changed []string
	for _, r := range reports {
		if r.Hash == inspect.Differs {
			changed = append(changed, r.Path)
		}
		for _, name := range r.NotFinite {
			bad = append(bad, r.Path+": tensor "+name)
		}
	}
	if a.json {
		if err := a.writeJSON(reports); err != nil {
			return err
		}
	} else {
		for _, r := range reports {
			a.printReport(r)
		}
	}
	if len(changed) > 0 {
		return fmt.Errorf("the data of %s is not what its metadata's modelspec.hash_sha256 says: the file was changed or damaged", strings.Join(changed, ", "))
	}
	if len(bad) > 0 {
		more := ""
		if len(bad) > 3 {
			more = fmt.Sprintf(" and %d more", len(bad)-3)
		}
		return fmt.Errorf("values are not finite in %s%s", strings.Join(bad[:min(3, len(bad))], ", "), more)
	}
	return nil
}

func (a *app) printReport(r inspect.Report) {
	kind := string(r.Kind)
	if r.Detail != "" {
		kind += ": " + r.Detail
	}
	finite := "all"
	if n := len(r.NotFinite); n > 0 {
		finite = fmt.Sprintf("no: NaN or infinity in %d tensors", n)
	} else if n := len(r.Unread); n > 0 {
		finite = fmt.Sprintf("all but %d tensors of types that are not checked", n)
	}
	fmt.Fprintf(a.stdout, "%s\n  kind        %s\n  tensors     %d (%s)\n  parameters  %s\n  size        %s\n  finite      %s\n  hash        %s\n  loaded by   %s\n",
		r.Path, kind, r.Tensors, r.Types(), count(float64(r.Parameters)), bytesText(r.Bytes), finite, cmp.Or(r.Hash, "none given"), r.LoadedBy)
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
