package ablation

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/configs"
	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/internal/atomicfile"
)

// Page is where a page's inputs are that no run has.
type Page struct {
	Acceptance string // folder with acceptance.json; "" or without one = the page says that there was no such test
}

// WritePage writes README.md, ablation.csv and a sheet for each number of calls into a folder. Everything on the page follows
// from the runs: what a row changes from its recipe, and whether that helps from the verdicts.
func (a *Ablation) WritePage(dir string, p Page) error {
	var b strings.Builder
	a.pageHead(&b)
	if err := pageAcceptance(&b, p.Acceptance); err != nil {
		return err
	}
	a.pageOpponents(&b)
	a.pageTargets(&b)
	if err := a.pageRows(&b); err != nil {
		return err
	}
	if err := a.pageSheets(&b, dir); err != nil {
		return err
	}
	b.WriteString("\n## All figures\n\nThe same in [ablation.csv](ablation.csv). ")
	if err := a.WriteMarkdown(&b); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, "ablation.csv"), a.WriteCSV); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "README.md"), func(w io.Writer) error {
		_, err := io.WriteString(w, b.String())
		return err
	})
}

// main is the recipe that the others are compared with.
func (a *Ablation) main() Recipe { return a.Recipes[0] }

func (r Recipe) seeds() string {
	var out []uint64
	for _, run := range r.Runs {
		out = append(out, run.Config.Seed)
	}
	return plural(len(out), "seed") + " (" + listed(out) + ")"
}

// listed are numbers with commas between them.
func listed(numbers []uint64) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
}

func (a *Ablation) pageHead(b *strings.Builder) {
	fmt.Fprintf(b, "# Ablation of %s\n\nWhat each part of the recipe is worth: every row changes one thing of **%s** and is measured by the same protocol.\n", a.main().Name, a.main().Name)
	b.WriteString("`fewstep compare --page` made this page from the runs' own figures; no word of it was written by hand.\n\n")
	b.WriteString("*Better* and *worse* mean: in every seed that was run, by a 95 % interval of the difference of two models that drew from the same noise.\n" +
		"That interval knows how the drawn images vary, not how training does: of rows with one seed, small differences may be chance.\n\n| row | seeds |\n|---|---|\n")
	for _, r := range a.Recipes {
		fmt.Fprintf(b, "| %s | %s |\n", r.Name, r.seeds())
	}
	b.WriteString("\n")
	for _, f := range a.main().Runs[0].Table.Facts {
		fmt.Fprintf(b, "- %s: %s\n", f.Name, f.Value)
	}
	for _, n := range a.Notes {
		fmt.Fprintf(b, "\n**Mind:** %s.\n", n)
	}
}

// pageAcceptance says whether the benchmark was found fit to tell models apart.
func pageAcceptance(b *strings.Builder, dir string) error {
	b.WriteString("\n## Can this benchmark tell?\n\n")
	raw, err := os.ReadFile(filepath.Join(dir, "acceptance.json"))
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		b.WriteString("Its acceptance test was not run.\n")
		return nil
	}
	if err != nil {
		return err
	}
	var t eval.Acceptance
	if err := json.Unmarshal(raw, &t); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, "acceptance.json"), err)
	}
	if n := t.Unmet(); n > 0 {
		fmt.Fprintf(b, "**Not in everything:** %d of the %d criteria of its acceptance test are not met, and what follows is to be read with that in mind.\n\n", n, len(t.Criteria))
	} else {
		fmt.Fprintf(b, "All %d criteria of its acceptance test are met.\n\n", len(t.Criteria))
	}
	b.WriteString(t.Markdown())
	return nil
}

// pageOpponents says how the main recipe stands against what costs no or other training.
func (a *Ablation) pageOpponents(b *strings.Builder) {
	fmt.Fprintf(b, "\n## %s against its opponents\n\nThe best distilled model of each number of calls against the opponent's best of as many.\n\n| opponent | metric | better at | worse at | not told apart at |\n|---|---|---|---|---|\n", a.main().Name)
	type line struct {
		opponent string
		metric   report.Metric
	}
	var lines []line
	of := map[line]map[int]map[report.Verdict]int{}
	for _, run := range a.main().Runs {
		for _, j := range report.Judge(run.Table.Rows, run.Table.Metrics) {
			l := line{j.Opponent, j.Metric}
			if of[l] == nil {
				of[l] = map[int]map[report.Verdict]int{}
				lines = append(lines, l)
			}
			if of[l][j.Calls] == nil {
				of[l][j.Calls] = map[report.Verdict]int{}
			}
			of[l][j.Calls][j.Verdict]++
		}
	}
	slices.SortStableFunc(lines, func(x, y line) int { return cmp.Compare(x.opponent, y.opponent) })
	for _, l := range lines {
		at := map[string][]string{}
		var calls []int
		for n := range of[l] {
			calls = append(calls, n)
		}
		slices.SortFunc(calls, func(x, y int) int { return y - x })
		for _, n := range calls {
			v := verdict(of[l][n], len(a.main().Runs))
			at[v] = append(at[v], fmt.Sprint(n))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", l.opponent, l.metric.Name, strings.Join(at[Better], ", "), strings.Join(at[Worse], ", "), strings.Join(at[NotTold], ", "))
	}
}

// verdict is what all of so many seeds say.
func verdict(of map[report.Verdict]int, seeds int) string {
	switch {
	case of[report.ClearlyBetter] == seeds:
		return Better
	case of[report.ClearlyWorse] == seeds:
		return Worse
	}
	return NotTold
}

// pageRows tells of every row what it changes and what came of it.
func (a *Ablation) pageRows(b *strings.Builder) error {
	cells := a.Cells()
	if len(a.Recipes) > 1 {
		b.WriteString("\n## Row by row\n")
	}
	for i, r := range a.Recipes {
		if i == 0 {
			continue
		}
		differences := changes(a.main().Runs[0].Config, r.Runs[0].Config)
		o := a.outcome(r, cells)
		fmt.Fprintf(b, "\n### %s: %s\n\n%s\n", r.Name, o.class(), o.text(a.main().Name))
		fmt.Fprintf(b, "\n<details><summary>%s, %s of the recipe differ</summary>\n\n", r.seeds(), plural(len(differences), "key"))
		for _, d := range differences {
			fmt.Fprintf(b, "    %s\n", strings.ReplaceAll(d, "\n", "\n    "))
		}
		b.WriteString("\n</details>\n")
	}
	return nil
}

// changes are the keys in which a recipe differs from the main one.
func changes(main, row *configs.Recipe) []string {
	x, y := *main, *row
	x.Name, x.Seed, x.Eval.Rivals = "", 0, nil
	y.Name, y.Seed, y.Eval.Rivals = "", 0, nil
	return configs.Diff(&x, &y)
}

// outcome is what came of a row: its figures by verdict, those of distilled models that are no diagnostics.
type outcome struct {
	better, worse, same []string
	shared              []string // models that are the main recipe's own: the row begins behind them
	missing             int      // figures that the main recipe has in no seed of the row's
	told, figures       int      // how many figures are told apart, of how many
	compared, alone     []uint64 // seeds that both have, and that the row alone has
}

func (a *Ablation) outcome(r Recipe, cells []Cell) (o outcome) {
	pairs := a.pairs(r)
	o.shared = a.shared(pairs)
	for _, run := range r.Runs {
		seed := run.Config.Seed
		if slices.ContainsFunc(pairs, func(p pair) bool { return p.run.Config.Seed == seed }) {
			o.compared = append(o.compared, seed)
		} else {
			o.alone = append(o.alone, seed)
		}
	}
	for _, metric := range a.Metrics {
		if metric.Diagnostic {
			continue
		}
		var better, worse, same []string
		for _, c := range cells {
			if c.Recipe != r.Name || c.Metric != metric.Name || c.Convention != metric.Convention || c.Kind != report.Full && c.Kind != report.LoRA {
				continue
			}
			if slices.Contains(o.shared, c.Model) {
				continue
			}
			text := c.Model
			if ratio := against(cells, c, a.main().Name); ratio > 0 {
				text += fmt.Sprintf(" (×%.2f)", ratio)
			}
			if c.Verdict != "" {
				o.figures++
			}
			if c.Verdict == Better || c.Verdict == Worse {
				o.told++
			}
			switch c.Verdict {
			case Better:
				better = append(better, text)
			case Worse:
				worse = append(worse, text)
			case NotTold:
				same = append(same, text)
			default:
				o.missing++
			}
		}
		for _, x := range []struct {
			to   *[]string
			from []string
		}{{&o.better, better}, {&o.worse, worse}, {&o.same, same}} {
			if len(x.from) > 0 {
				*x.to = append(*x.to, metric.Name+": "+strings.Join(x.from, ", "))
			}
		}
	}
	return o
}

// against is a cell's mean over that of the main recipe's same cell, over the seeds that both have; 0 without any.
func against(cells []Cell, c Cell, main string) float64 {
	ours, theirs := 0.0, 0.0
	for _, m := range cells {
		if m.Recipe != main || m.Model != c.Model || m.Kind != c.Kind || m.Steps != c.Steps || m.Metric != c.Metric || m.Convention != c.Convention {
			continue
		}
		for i, seed := range c.Seeds {
			if k := slices.Index(m.Seeds, seed); k >= 0 {
				ours, theirs = ours+c.Values[i], theirs+m.Values[k]
			}
		}
	}
	if theirs > 0 {
		return ours / theirs
	}
	return 0
}

// shared are the distilled models that a row has from the main recipe: in every seed that both have some metric is the same to the
// last bit.
func (a *Ablation) shared(pairs []pair) (out []string) {
	for _, m := range a.Models() {
		if len(pairs) == 0 || m.Kind != report.Full && m.Kind != report.LoRA {
			continue
		}
		if !slices.ContainsFunc(pairs, func(p pair) bool { same, _ := p.metrics(m, a.Metrics); return len(same) == 0 }) {
			out = append(out, m.Name)
		}
	}
	return out
}

// chance is how many figures would be told apart if none differed: of one seed one in twenty.
func (o outcome) chance() float64 {
	return float64(o.figures) * 2 * math.Pow(0.025, float64(len(o.compared)))
}

// class is a row's outcome in a few words.
func (o outcome) class() string {
	switch {
	case o.told > 0 && float64(o.told) <= math.Round(o.chance()):
		return "not told apart"
	case len(o.better) > 0 && len(o.worse) > 0:
		return "better in some, worse in some"
	case len(o.better) > 0:
		return "better"
	case len(o.worse) > 0:
		return "worse"
	case len(o.same) > 0:
		return "not told apart"
	}
	return "not compared"
}

func (o outcome) text(main string) string {
	var out []string
	add := func(head string, of []string) {
		if len(of) > 0 {
			out = append(out, "- "+head+": "+strings.Join(of, "; ")+".")
		}
	}
	add("**worse** than "+main, o.worse)
	add("**better** than "+main, o.better)
	add("not told apart from "+main, o.same)
	if o.told > 0 {
		out = append(out, fmt.Sprintf("- %d of %s told apart; chance alone gives %.2g.", o.told, plural(o.figures, "figure"), o.chance()))
	}
	if len(o.shared) > 0 {
		out = append(out, fmt.Sprintf("- the row begins behind %s, which it has from %s.", strings.Join(o.shared, ", "), main))
	}
	if len(o.compared) > 0 && len(o.alone) > 0 {
		out = append(out, fmt.Sprintf("- compared in seed %s; %s has no run of seed %s.", listed(o.compared), main, listed(o.alone)))
	}
	if o.missing > 0 {
		out = append(out, fmt.Sprintf("- %s had no counterpart of the same seed in %s.", plural(o.missing, "figure"), main))
	}
	return strings.Join(out, "\n")
}

// pageSheets draws what the recipes' models make of the same noise.
func (a *Ablation) pageSheets(b *strings.Builder, dir string) error {
	first := true
	for _, m := range a.calls() {
		img, err := a.Sheet(m, report.Full, report.LoRA)
		if errors.Is(err, errNoPictures) {
			continue
		}
		if err != nil {
			return err
		}
		if first {
			b.WriteString("\n## The pictures\n\nOne prompt and one starting noise a row; of several seeds the first run's. Where a row has a full model it is drawn, else its LoRA.\n")
			first = false
		}
		name := fmt.Sprintf("sheet-%d.png", m)
		if err := atomicfile.WriteBytes(filepath.Join(dir, name), img); err != nil {
			return err
		}
		fmt.Fprintf(b, "\n### %s\n\n![%s: teacher, earlier student, and every row](%s)\n", plural(m, "network call"), plural(m, "network call"), name)
	}
	return nil
}

// calls are the numbers of network calls of distilled models, most first, without that of the first stage, whose models rows
// share.
func (a *Ablation) calls() (out []int) {
	for _, m := range a.Models() {
		if (m.Kind == report.Full || m.Kind == report.LoRA) && !slices.Contains(out, m.Calls) {
			out = append(out, m.Calls)
		}
	}
	slices.SortFunc(out, func(x, y int) int { return y - x })
	if len(out) > 1 {
		out = out[1:]
	}
	return out
}
