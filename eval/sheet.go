package eval

import (
	"bytes"
	"fmt"
	"image"
	"image/png"

	"fewstep/eval/report"
)

// Sheet is a picture of samples: one row per prompt, one column per model that keep accepts (nil: all), the same noise
// along each row. It is nil when no model has pictures.
func (t *Table) Sheet(keep func(Column) bool) ([]byte, error) {
	var labels []string
	grid := make([][]image.Image, len(t.Prompts))
	for _, c := range t.Columns {
		if keep != nil && !keep(c) {
			continue
		}
		labels = append(labels, c.Label())
		if err := c.AddTo(grid); err != nil {
			return nil, err
		}
	}
	if len(labels) == 0 || len(grid) == 0 {
		return nil, nil
	}
	return report.ComposeSheet(grid, t.Prompts, labels)
}

// AddTo appends the column's pictures to the rows of a sheet, one to each; nil where it has none.
func (c Column) AddTo(grid [][]image.Image) error {
	for i := range grid {
		if i >= len(c.Pictures) {
			grid[i] = append(grid[i], nil)
			continue
		}
		img, err := png.Decode(bytes.NewReader(c.Pictures[i]))
		if err != nil {
			return fmt.Errorf("saved picture %d of %s at %d steps: %w", i, c.Model, c.Steps, err)
		}
		grid[i] = append(grid[i], img)
	}
	return nil
}

// Label is a column's heading.
func (c Column) Label() string {
	calls := "1 call"
	if c.Calls != 1 {
		calls = fmt.Sprintf("%d calls", c.Calls)
	}
	if c.Kind == report.Teacher || c.Kind == report.Undistilled {
		return fmt.Sprintf("%s %d, %s", c.Model, c.Steps, calls)
	}
	if c.Kind == report.Earlier {
		return fmt.Sprintf("%s student untrained for it, %s", c.Model, calls)
	}
	return fmt.Sprintf("%s, %s", c.Model, calls)
}
