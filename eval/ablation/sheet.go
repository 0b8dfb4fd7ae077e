package ablation

import (
	"errors"
	"fmt"
	"image"
	"slices"

	"fewstep/eval"
	"fewstep/eval/report"
)

// errNoPictures says that no run has pictures of a distilled model of that many calls.
var errNoPictures = errors.New("no run has pictures of a distilled model")

// Sheet is a picture of what the recipes' models of one number of network calls draw: one prompt and one noise per row,
// the teacher of the first run, its earlier student, then each recipe's models; of several seeds the first run's. Of each
// recipe it shows the models of the first of the given kinds that it has, without any all.
func (a *Ablation) Sheet(calls int, first ...report.Kind) ([]byte, error) {
	main := a.Recipes[0].Runs[0].Table
	var labels []string
	grid := make([][]image.Image, len(main.Prompts))
	add := func(label string, c eval.Column) error {
		labels = append(labels, label)
		return c.AddTo(grid)
	}
	for _, c := range main.Columns {
		if c.Kind == report.Teacher || c.Kind == report.Earlier && c.Calls == calls {
			if err := add(c.Label(), c); err != nil {
				return nil, err
			}
		}
	}
	models := 0
	var seen []eval.Column
	for _, r := range a.Recipes {
		t := r.Runs[0].Table
		if !slices.Equal(t.Prompts, main.Prompts) {
			return nil, fmt.Errorf("%s and %s have other prompts on their sheets", r.Runs[0].Dir, a.Recipes[0].Runs[0].Dir)
		}
		for _, c := range shown(t.Columns, calls, first) {
			if slices.ContainsFunc(seen, c.SamePictures) {
				continue // a row that begins behind this model has it from another
			}
			seen = append(seen, c)
			models++
			if err := add(r.Name+": "+c.Label(), c); err != nil {
				return nil, err
			}
		}
	}
	if models == 0 {
		return nil, fmt.Errorf("%w of %d network calls", errNoPictures, calls)
	}
	return report.ComposeSheet(grid, main.Prompts, labels)
}

// shown are the distilled models of so many calls: those of the first kind that there is, or of all where none is given.
func shown(columns []eval.Column, calls int, kinds []report.Kind) (out []eval.Column) {
	of := func(kinds ...report.Kind) (out []eval.Column) {
		for _, c := range columns {
			if c.Calls == calls && slices.Contains(kinds, c.Kind) {
				out = append(out, c)
			}
		}
		return out
	}
	if len(kinds) == 0 {
		return of(report.Full, report.LoRA)
	}
	for _, k := range kinds {
		if out := of(k); len(out) > 0 {
			return out
		}
	}
	return nil
}
