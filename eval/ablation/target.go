package ablation

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"fewstep/eval/report"
)

// Target is a target of one recipe over its seeds (see [report.Targets]).
type Target struct {
	Recipe     string          `json:"recipe"`
	Model      string          `json:"model"`
	Steps      int             `json:"steps"`
	To         string          `json:"to"`
	Metric     string          `json:"metric"`
	Convention string          `json:"convention"`
	Asks       string          `json:"asks"`
	Seeds      []report.Target `json:"seeds"`
	Reach      report.Reach    `json:"reach"` // met or missed where every seed's interval says so
}

// Targets judges every recipe by the targets.
func (a *Ablation) Targets() (out []Target) {
	for _, r := range a.Recipes {
		begin := len(out)
		for _, run := range r.Runs {
			for _, t := range report.Targets(run.Table.Rows, run.Table.Metrics) {
				i := slices.IndexFunc(out[begin:], func(o Target) bool {
					return o.Model == t.Model && o.Steps == t.Steps && o.To == t.To && o.Metric == t.Metric.Name && o.Convention == t.Metric.Convention
				})
				if i < 0 {
					i = len(out) - begin
					out = append(out, Target{Recipe: r.Name, Model: t.Model, Steps: t.Steps, To: t.To, Metric: t.Metric.Name, Convention: t.Metric.Convention, Asks: t.Asks(), Reach: t.Reach})
				}
				o := &out[begin+i]
				if o.Seeds = append(o.Seeds, t); o.Reach != t.Reach {
					o.Reach = report.Undecided
				}
			}
		}
	}
	return out
}

// targetsHead explains tables of targets.
const targetsHead = "Ratios with 95 % intervals, one for each seed. The bounds are the best ends of the ranges that SDXL-Lightning reports of its own models\n" +
	"(arXiv 2402.13929); a LoRA is to be within 5 % of the full model. ✓ met and ✗ missed: in every seed the interval lies on that side; ? it holds the bound.\n"

// WriteTargets writes every recipe's ratios beside the targets, as WriteMarkdown does the figures.
func (a *Ablation) WriteTargets(w io.Writer) error {
	var b strings.Builder
	all := a.Targets()
	for _, r := range a.Recipes {
		if table := targetTable(all, r.Name); table != "" {
			if b.Len() == 0 {
				b.WriteString("\n" + targetsHead)
			}
			fmt.Fprintf(&b, "\n### Targets: %s\n\n%s", r.Name, table)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// pageTargets sets the main recipe's ratios beside the targets.
func (a *Ablation) pageTargets(b *strings.Builder) {
	if table := targetTable(a.Targets(), a.main().Name); table != "" {
		b.WriteString("\n## Targets\n\n" + targetsHead + "\n" + table)
	}
}

// targetTable has a line for each model of a recipe and what it is divided by, and a column for each metric; "" without any.
func targetTable(all []Target, recipe string) string {
	all = slices.DeleteFunc(slices.Clone(all), func(t Target) bool { return t.Recipe != recipe })
	if len(all) == 0 {
		return ""
	}
	type column struct{ metric, convention string }
	type line struct {
		steps     int
		model, to string
	}
	var columns []column
	var lines []line
	for _, t := range all {
		if c := (column{t.Metric, t.Convention}); !slices.Contains(columns, c) {
			columns = append(columns, c)
		}
		if l := (line{t.Steps, t.Model, t.To}); !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	var b strings.Builder
	b.WriteString("| steps | model | divided by |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.metric)
	}
	b.WriteString("\n|---:|---|---|" + strings.Repeat("---:|", len(columns)) + "\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "| %d | %s | %s |", l.steps, l.model, l.to)
		for _, c := range columns {
			i := slices.IndexFunc(all, func(t Target) bool {
				return (line{t.Steps, t.Model, t.To}) == l && (column{t.Metric, t.Convention}) == c
			})
			text := "–"
			if i >= 0 {
				text = all[i].text()
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// text is a target for people: "1.02 (0.98–1.07) ≤ 1.16 ✓".
func (t Target) text() string {
	var figures []string
	for _, s := range t.Seeds {
		figures = append(figures, s.Figure())
	}
	return strings.Join(figures, ", ") + " " + t.Asks + map[report.Reach]string{report.Met: " ✓", report.Missed: " ✗", report.Undecided: " ?"}[t.Reach]
}
