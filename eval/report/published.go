package report

import (
	"math"
	"strconv"
)

// Published is a figure from the literature. It stands beside the rows of equal steps, never in metrics.csv, and is
// part of no comparison: it was measured on another network, with other prompts and images.
type Published struct {
	Row
	Source string // "arXiv 2402.13929"
}

// Lightning are the figures of "SDXL-Lightning" (arXiv 2402.13929): SDXL, 10,000 captions of COCO, with FID's network
// and the convention "lightning".
func Lightning() []Published {
	const source, convention, samples = "arXiv 2402.13929", "lightning", 10000
	var out []Published
	for _, m := range []struct {
		model        string
		kind         Kind
		steps, calls int
		values       [3]float64
	}{
		{"SDXL", Teacher, 32, 64, [3]float64{18.49, 35.89, 26.48}},
		{"SDXL-Lightning", Full, 8, 8, [3]float64{21.43, 33.55, 25.86}},
		{"SDXL-Lightning", Full, 4, 4, [3]float64{22.30, 33.52, 26.07}},
		{"SDXL-Lightning", Full, 2, 2, [3]float64{23.11, 35.12, 25.98}},
		{"SDXL-Lightning", Full, 1, 1, [3]float64{22.61, 41.53, 26.02}},
		{"SDXL-Lightning", LoRA, 8, 8, [3]float64{22.30, 33.92, 25.77}},
		{"SDXL-Lightning", LoRA, 4, 4, [3]float64{23.01, 34.10, 26.04}},
		{"SDXL-Lightning", LoRA, 2, 2, [3]float64{23.39, 40.54, 26.18}},
	} {
		for i, metric := range []string{"FID-Whole", "FID-Patch", "CLIP score"} {
			out = append(out, Published{Row{m.model, m.steps, m.calls, m.kind, metric, convention, m.values[i], math.NaN(), math.NaN(), samples, nil}, source})
		}
	}
	return out
}

// published lists the models of the literature that a table of this many steps can be set beside: at least one of
// the page's metrics is theirs, or has its counterpart among theirs.
func (r *Report) published(steps int) []entry {
	var out []entry
	for _, e := range r.entries(publishedRows(r.Published)) {
		if e.Steps != steps || !distilled(e) {
			continue
		}
		comparable := false
		for _, m := range r.metricsInUse() {
			comparable = comparable || r.publishedCell(e, m) != cellView{}
		}
		if comparable {
			e.Note = r.publishedSource(e)
			out = append(out, e)
		}
	}
	return out
}

// publishedCell is a published model's cell in the column of one of the page's metrics: the value where metric and
// convention are the same; else, where the metric is the counterpart under another convention, no more than the ratio
// to the publication's own teacher.
func (r *Report) publishedCell(e entry, m Metric) cellView {
	ratio := func(row Row) string {
		for _, p := range r.Published {
			if p.Kind == Teacher && p.Metric == row.Metric && p.Convention == row.Convention && p.Value > 0 {
				return "×" + strconv.FormatFloat(row.Value/p.Value, 'f', 2, 64) + " its teacher"
			}
		}
		return ""
	}
	if row, ok := e.rows[m]; ok {
		return cellView{Value: strconv.FormatFloat(row.Value, 'f', 2, 64), Ratio: ratio(row)}
	}
	for _, row := range e.rows {
		if m.Counterpart != "" && row.Metric == m.Counterpart {
			return cellView{Ratio: ratio(row), Interval: row.Metric + " [" + row.Convention + "]"}
		}
	}
	return cellView{}
}

func publishedRows(published []Published) []Row {
	rows := make([]Row, len(published))
	for i, p := range published {
		rows[i] = p.Row
	}
	return rows
}

func (r *Report) publishedSource(e entry) string {
	for _, p := range r.Published {
		if p.Model == e.Model && p.Steps == e.Steps && p.Kind == e.Kind {
			return p.Source
		}
	}
	return ""
}
