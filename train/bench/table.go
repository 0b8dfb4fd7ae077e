package bench

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Table writes results of steps on one and on several devices, lines of JSON as Run's, as a table.
//
// Scaling is the speed of n devices over n times that of one: with the same samples per device, which is what a cluster is
// asked for, and with the same samples in all, where each device has less to do at once. The time to the first step is that
// of weights, inputs and the first step, over that of one device with the same samples per device.
func Table(r io.Reader, w io.Writer) error {
	rows, err := readResults(r)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| step\t| devices\t| batch\t| micro-batches\t| shard, reduce\t| ms\t| samples/s\t| scaling, same per device\t| same in all\t| GB per device : planned\t| first step, s\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, x := range rows {
		alone := func(batch int) *Result {
			i := slices.IndexFunc(rows, func(y Result) bool {
				return y.Devices == 1 && x.Devices > 1 && y.Batch == batch && y.Step == x.Step && y.Preset == x.Preset && y.Accumulate == x.Accumulate
			})
			if i < 0 {
				return nil
			}
			return &rows[i]
		}
		scaling := func(one *Result) string {
			if one == nil {
				return "-"
			}
			return fmt.Sprintf("%.1f %%", 100*x.SamplesPS/one.SamplesPS/float64(x.Devices))
		}
		per := alone(x.Batch / x.Devices)
		memory := x.ArraysGB // of plugins that keep no figures
		if x.PeakGB != nil {
			memory = *x.PeakGB
		}
		first := fmt.Sprintf("%.1f", x.SetupS+x.FirstS)
		if per != nil {
			first += fmt.Sprintf(" (%+.0f %%)", 100*((x.SetupS+x.FirstS)/(per.SetupS+per.FirstS)-1))
		}
		if x.Apart {
			x.Reduce += ", apart"
		}
		fmt.Fprintf(t, "| %s\t| %d\t| %d\t| %d\t| %s, %s\t| %.1f (%.1f)\t| %.3g\t| %s\t| %s\t| %.1f : %.1f\t| %s\t|\n", x.Step, x.Devices, x.Batch, x.Accumulate, x.Shard, x.Reduce,
			x.MedianMS, x.MinMS, x.SamplesPS, scaling(per), scaling(alone(x.Batch)), memory, x.PlannedGB, first)
	}
	return t.Flush()
}

func readResults(r io.Reader) (rows []Result, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var x Result
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			return nil, fmt.Errorf("line %d is not a result of 'fewstep bench': %w", n, err)
		}
		if x.Devices < 1 || x.Accumulate < 1 || !(x.SamplesPS > 0) {
			return nil, fmt.Errorf("line %d is not a result of 'fewstep bench': it tells of %d devices, %d micro-batches and %g samples a second", n, x.Devices, x.Accumulate, x.SamplesPS)
		}
		rows = append(rows, x)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Step, b.Step), cmp.Compare(a.Accumulate, b.Accumulate), cmp.Compare(a.Devices, b.Devices), cmp.Compare(a.Batch, b.Batch),
			cmp.Compare(a.Shard, b.Shard), cmp.Compare(b.Reduce, a.Reduce))
	})
	return rows, nil
}
