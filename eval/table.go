package eval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"math"
	"slices"

	"fewstep/eval/metric"
	"fewstep/eval/report"
)

// tableFile is how a Table is kept.
type tableFile struct {
	Metrics []report.Metric `json:"metrics"`
	Facts   []report.Fact   `json:"facts"`
	Prompts []string        `json:"prompts"`
	Results []result        `json:"results"`

	Protocol string `json:"protocol,omitempty"`
}

// result is one measured model.
type result struct {
	Column Column  `json:"column"`
	Values []Value `json:"values"`
}

// MarshalJSON writes everything that a report needs of the table.
func (t *Table) MarshalJSON() ([]byte, error) {
	return json.Marshal(tableFile{t.Metrics, t.Facts, t.Prompts, t.results, t.Protocol})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Table) UnmarshalJSON(raw []byte) error {
	var f tableFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("saved table: %w", err)
	}
	*t = Table{Metrics: f.Metrics, Facts: f.Facts, Prompts: f.Prompts, Protocol: f.Protocol}
	for _, r := range f.Results {
		t.add(r.Column, r.Values)
	}
	return nil
}

// Table is the result: rows in the order in which they were measured, and the pictures of the sheets.
type Table struct {
	Rows    []report.Row
	Metrics []report.Metric
	Facts   []report.Fact
	Prompts []string // of the sheets
	Columns []Column

	// Protocol is the digest of all that decides a row's numbers but its model: rows of tables with the same one compare.
	Protocol string

	results []result
}

// Column is a model's pictures on the sheets, one PNG per prompt.
type Column struct {
	Model    string      `json:"model"`
	Kind     report.Kind `json:"kind"`
	Steps    int         `json:"steps"`
	Calls    int         `json:"calls"`
	Pictures [][]byte    `json:"pictures"`
}

func (c *Column) add(img image.Image) error {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	c.Pictures = append(c.Pictures, b.Bytes())
	return nil
}

// WithPictures is the table with the pictures of the columns that are to be kept and no others.
func (t *Table) WithPictures(keep func(Column) bool) *Table {
	out := *t
	out.Rows, out.Columns, out.results = nil, nil, nil
	for _, r := range t.results {
		if !keep(r.Column) {
			r.Column.Pictures = nil
		}
		out.add(r.Column, r.Values)
	}
	return &out
}

// SamePictures tells whether two columns show the same.
func (c Column) SamePictures(o Column) bool {
	return slices.EqualFunc(c.Pictures, o.Pictures, bytes.Equal)
}

// add appends a model's rows and, where it has pictures, its column.
func (t *Table) add(c Column, all []Value) {
	t.results = append(t.results, result{c, all})
	for _, v := range all {
		t.Rows = append(t.Rows, v.row(c, t.convention(v.Metric)))
	}
	if len(c.Pictures) > 0 {
		t.Columns = append(t.Columns, c)
	}
}

// row is a value of a model as reports have it.
func (v Value) row(c Column, convention string) report.Row {
	r := report.Row{Model: c.Model, Steps: c.Steps, Calls: c.Calls, Kind: c.Kind, Metric: v.Metric, Convention: convention,
		Value: v.Value, Low: math.NaN(), High: math.NaN(), Samples: v.Samples, Influences: v.Influences}
	if v.Low != nil && v.High != nil {
		r.Low, r.High = *v.Low, *v.High
	}
	return r
}

func (t *Table) convention(name string) string {
	for _, m := range t.Metrics {
		if m.Name == name {
			return m.Convention
		}
	}
	return metric.Convention
}
