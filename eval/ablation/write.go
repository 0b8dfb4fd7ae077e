package ablation

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"fewstep/eval/report"
)

// Columns of WriteCSV.
var columns = []string{"recipe", "model", "kind", "steps", "calls", "metric", "convention", "seeds", "mean", "spread", "low", "high", "ratio", "verdict"}

// WriteCSV writes all cells, one a line; numbers in the shortest form that reads back to the same float64, empty where
// there is none.
func (a *Ablation) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	if err := c.Write(columns); err != nil {
		return err
	}
	for _, v := range a.Cells() {
		var seeds []string
		for _, s := range v.Seeds {
			seeds = append(seeds, strconv.FormatUint(s, 10))
		}
		err := c.Write([]string{v.Recipe, v.Model, string(v.Kind), strconv.Itoa(v.Steps), strconv.Itoa(v.Calls), v.Metric, v.Convention, strings.Join(seeds, " "),
			shortest(&v.Mean), shortest(v.Spread), shortest(v.Low), shortest(v.High), shortest(v.Ratio), v.Verdict})
		if err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func shortest(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', -1, 64)
}

// WriteMarkdown writes one table for every number of calls and kind of model, recipes as rows and metrics as columns,
// and one of what the phases did.
func (a *Ablation) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	several := slices.ContainsFunc(a.Recipes, func(r Recipe) bool { return len(r.Runs) > 1 })
	spread := "95 % interval of the value"
	if several {
		spread = "± standard deviation over seeds, or of one seed the 95 % interval"
	}
	fmt.Fprintf(&b, "Mean, %s; × the same run's teacher.", spread)
	if len(a.Recipes) > 1 {
		fmt.Fprintf(&b, " ✓ better and ✗ worse than %s: in every seed, by the 95 %% interval of the paired difference.", a.Recipes[0].Name)
	}
	b.WriteString("\n")
	for _, n := range a.Notes {
		fmt.Fprintf(&b, "\nMind: %s.\n", n)
	}
	cells := a.Cells()
	var last Model
	for _, m := range a.Models() {
		if m.Calls != last.Calls || m.Kind != last.Kind || m.Steps != last.Steps {
			a.markdown(&b, m, cells)
		}
		last = m
	}
	a.markdownPhases(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown writes the table of the models of one kind and cost.
func (a *Ablation) markdown(b *strings.Builder, m Model, cells []Cell) {
	of := slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { return c.Kind != m.Kind || c.Steps != m.Steps || c.Calls != m.Calls })
	var metrics []report.Metric
	for _, metric := range a.Metrics {
		if slices.ContainsFunc(of, func(c Cell) bool { return c.Metric == metric.Name && c.Convention == metric.Convention }) {
			metrics = append(metrics, metric)
		}
	}
	title := map[report.Kind]string{report.Full: "full", report.LoRA: "LoRA", report.Earlier: m.Name + " student without further training", report.Undistilled: "undistilled", report.Teacher: "teacher", report.Real: "real images"}[m.Kind]
	if m.Kind != report.Real {
		title = fmt.Sprintf("%s, %s: %s", plural(m.Calls, "call"), plural(m.Steps, "step"), title)
	}
	fmt.Fprintf(b, "\n### %s\n\n| recipe | seeds |", title)
	for _, metric := range metrics {
		fmt.Fprintf(b, " %s (%s) |", metric.Name, metric.Direction())
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---:|", len(metrics)) + "\n")
	for _, r := range a.Recipes {
		row := slices.DeleteFunc(slices.Clone(of), func(c Cell) bool { return c.Recipe != r.Name })
		if len(row) == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s | %d |", strings.ReplaceAll(r.Name, "|", `\|`), len(row[0].Seeds))
		for _, metric := range metrics {
			i := slices.IndexFunc(row, func(c Cell) bool { return c.Metric == metric.Name && c.Convention == metric.Convention })
			text := "–"
			if i >= 0 {
				text = row[i].text()
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteString("\n")
	}
}

// text is a cell for people: "0.025 ± 0.001 ×1.09 ✓".
func (c Cell) text() string {
	low, high := math.NaN(), math.NaN()
	if c.Low != nil && c.High != nil {
		low, high = *c.Low, *c.High
	}
	if c.Spread != nil {
		low, high = c.Mean-*c.Spread, c.Mean+*c.Spread
	}
	text := report.Significant(c.Mean, low, high)
	switch {
	case c.Spread != nil:
		text += " ± " + report.Significant(*c.Spread, low, high)
	case !math.IsNaN(low):
		text += " (" + report.Significant(low, low, high) + "–" + report.Significant(high, low, high) + ")"
	}
	if c.Ratio != nil && c.Kind != report.Teacher {
		text += fmt.Sprintf(" ×%.2f", *c.Ratio)
	}
	return text + map[string]string{Better: " ✓", Worse: " ✗"}[c.Verdict]
}

func (a *Ablation) markdownPhases(b *strings.Builder) {
	b.WriteString("\n### What the phases did\n\nUpdates made of the student / of the discriminator, and the discriminator's accuracy of pairs over the last quarter.\n\n")
	all := a.Phases()
	type place struct{ stage, phase string }
	var places []place
	for _, p := range all {
		if at := (place{p.Stage, p.Phase}); !slices.Contains(places, at) {
			places = append(places, at)
		}
	}
	b.WriteString("| recipe |")
	for _, p := range places {
		fmt.Fprintf(b, " %s/%s |", p.stage, p.phase)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(places)) + "\n")
	for _, r := range a.Recipes {
		fmt.Fprintf(b, "| %s |", strings.ReplaceAll(r.Name, "|", `\|`))
		for _, at := range places {
			i := slices.IndexFunc(all, func(p PhaseCell) bool { return p.Recipe == r.Name && p.Stage == at.stage && p.Phase == at.phase })
			text := "–"
			if i >= 0 {
				text = fmt.Sprintf("%.4g", all[i].Student)
				if all[i].Discriminator > 0 {
					text += fmt.Sprintf(" / %.4g", all[i].Discriminator)
				}
				if all[i].Paired != nil {
					text += fmt.Sprintf(", %.2f", *all[i].Paired)
				}
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteString("\n")
	}
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}
