package eval

import (
	"encoding/json"
	"fmt"

	"fewstep/eval/report"
)

// tableFile is how a Table is kept.
type tableFile struct {
	Metrics []report.Metric `json:"metrics"`
	Facts   []report.Fact   `json:"facts"`
	Prompts []string        `json:"prompts"`
	Results []result        `json:"results"`
}

// result is one measured model.
type result struct {
	Column Column  `json:"column"`
	Values []Value `json:"values"`
}

// MarshalJSON writes everything that a report needs of the table.
func (t *Table) MarshalJSON() ([]byte, error) {
	return json.Marshal(tableFile{t.Metrics, t.Facts, t.Prompts, t.results})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Table) UnmarshalJSON(raw []byte) error {
	var f tableFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("saved table: %w", err)
	}
	*t = Table{Metrics: f.Metrics, Facts: f.Facts, Prompts: f.Prompts}
	for _, r := range f.Results {
		t.add(r.Column, r.Values)
	}
	return nil
}
