package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"

	"fewstep/internal/atomicfile"
)

// Write writes index.html, metrics.csv and metrics.json into dir, each
// atomically. A report that does not validate writes nothing.
func Write(dir string, r *Report) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("report for %s: %w", dir, err)
	}
	page, err := renderPage(r)
	if err != nil {
		return fmt.Errorf("report for %s: %w", dir, err)
	}
	for _, file := range []struct {
		name string
		fill func(io.Writer) error
	}{
		{"metrics.csv", func(w io.Writer) error { return WriteCSV(w, r.Rows) }},
		{"metrics.json", func(w io.Writer) error { return writeJSON(w, r) }},
		{"index.html", func(w io.Writer) error { _, err := w.Write(page); return err }},
	} {
		if err := atomicfile.Write(filepath.Join(dir, file.name), file.fill); err != nil {
			return err
		}
	}
	return nil
}

var csvColumns = []string{"model", "steps", "calls", "kind", "metric", "convention", "value", "low", "high", "samples"}

// WriteCSV writes rows under the header
// model,steps,calls,kind,metric,convention,value,low,high,samples; values in
// the shortest form that reads back to the same float64, low and high empty
// where there is no interval.
func WriteCSV(w io.Writer, rows []Row) error {
	c := csv.NewWriter(w)
	if err := c.Write(csvColumns); err != nil {
		return err
	}
	for _, r := range rows {
		err := c.Write([]string{
			r.Model, strconv.Itoa(r.Steps), strconv.Itoa(r.Calls), string(r.Kind), r.Metric, r.Convention,
			number(r.Value), number(r.Low), number(r.High), strconv.Itoa(r.Samples),
		})
		if err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func number(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

type jsonRow struct {
	Model      string   `json:"model"`
	Steps      int      `json:"steps"`
	Calls      int      `json:"calls"`
	Kind       Kind     `json:"kind"`
	Metric     string   `json:"metric"`
	Convention string   `json:"convention"`
	Value      float64  `json:"value"`
	Low        *float64 `json:"low"`
	High       *float64 `json:"high"`
	Samples    int      `json:"samples"`
}

type jsonVerdict struct {
	Opponent   string `json:"opponent"`
	Calls      int    `json:"calls"`
	Metric     string `json:"metric"`
	Convention string `json:"convention"`
	Verdict    string `json:"verdict"`
}

func writeJSON(w io.Writer, r *Report) error {
	var verdicts []jsonVerdict
	for _, j := range Judge(r.Rows, r.Metrics) {
		verdicts = append(verdicts, jsonVerdict{j.Opponent, j.Calls, j.Metric.Name, j.Metric.Convention, j.Verdict.Words()})
	}
	rows := make([]jsonRow, len(r.Rows))
	for i, row := range r.Rows {
		rows[i] = jsonRow{row.Model, row.Steps, row.Calls, row.Kind, row.Metric, row.Convention, row.Value, nil, nil, row.Samples}
		if row.HasInterval() {
			rows[i].Low, rows[i].High = &r.Rows[i].Low, &r.Rows[i].High
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Title     string        `json:"title"`
		Generated string        `json:"generated,omitempty"`
		Facts     []Fact        `json:"facts,omitempty"`
		Warnings  []string      `json:"warnings,omitempty"`
		Commands  []Command     `json:"commands,omitempty"`
		Lineage   []Artifact    `json:"lineage,omitempty"`
		Metrics   []Metric      `json:"metrics"`
		Rows      []jsonRow     `json:"rows"`
		Verdicts  []jsonVerdict `json:"verdicts,omitempty"`
		Targets   []Target      `json:"targets,omitempty"`
		Timings   []Timing      `json:"timings,omitempty"`
	}{r.Title, r.Generated, r.Facts, r.warnings(), r.Commands, r.Lineage, r.metricsInUse(), rows, verdicts, Targets(r.Rows, r.Metrics), r.Timings})
}
