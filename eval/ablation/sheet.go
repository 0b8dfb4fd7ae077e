package ablation

import (
	"fmt"
	"image"
	"slices"

	"fewstep/eval"
	"fewstep/eval/report"
)

// Sheet is a picture of what the recipes' models of one number of network calls draw: one prompt and one noise per row,
// the teacher of the first run, its earlier student, then each recipe's models; of several seeds the first run's.
func (a *Ablation) Sheet(calls int) ([]byte, error) {
	first := a.Recipes[0].Runs[0].Table
	var labels []string
	grid := make([][]image.Image, len(first.Prompts))
	add := func(label string, c eval.Column) error {
		labels = append(labels, label)
		return c.AddTo(grid)
	}
	for _, c := range first.Columns {
		if c.Kind == report.Teacher || c.Kind == report.Earlier && c.Calls == calls {
			if err := add(c.Label(), c); err != nil {
				return nil, err
			}
		}
	}
	models := 0
	for _, r := range a.Recipes {
		t := r.Runs[0].Table
		if !slices.Equal(t.Prompts, first.Prompts) {
			return nil, fmt.Errorf("%s and %s have other prompts on their sheets", r.Runs[0].Dir, a.Recipes[0].Runs[0].Dir)
		}
		for _, c := range t.Columns {
			if (c.Kind == report.Full || c.Kind == report.LoRA) && c.Calls == calls {
				models++
				if err := add(r.Name+": "+c.Label(), c); err != nil {
					return nil, err
				}
			}
		}
	}
	if models == 0 {
		return nil, fmt.Errorf("no run has pictures of a distilled model of %d network calls", calls)
	}
	return report.ComposeSheet(grid, first.Prompts, labels)
}
