package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"image/png"
	"slices"
	"strconv"
	"strings"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))
)

// blankImage is a transparent GIF of one pixel.
const blankImage = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="

// page is what page.html is filled with.
type page struct {
	R           *Report
	Policy      string
	CSS         template.CSS
	JS          template.JS
	Blank       template.URL
	Headline    []headlineView
	Targets     targetsView
	Warnings    []string
	Metrics     []Metric
	Judged      []Metric // those of the verdicts
	Tables      []tableView
	TeacherName string
	Timed       bool
	Columns     int // of a step table
	Plots       plotsView
	TimePlots   plotsView
	Published   bool
	Devices     string // that the times were measured on
	Sheets      []sheetView
	Stages      []stageView
	Adversarial bool
	SortColumns []sortColumn
	All         []rowView
}

type tableView struct {
	ID, Title string
	Calls     int
	Against   []againstView
	Groups    []groupView
}

type againstView struct {
	Opponent string
	Verdicts []verdictView // by metric
}

type verdictView struct{ Class, Symbol, Words, Ours, Theirs, Difference string }

type groupView struct {
	Title, Class string
	Entries      []entryView
}

type entryView struct {
	Label, Model, Note, Class string
	Steps, Calls, Cost, Time  string
	Cells                     []cellView
}

type cellView struct {
	Value, Interval, Ratio string
	Best                   bool
}

type headlineView struct {
	Opponent string
	Metrics  []headlineMetric
}

type headlineMetric struct {
	Metric string
	Parts  []headlinePart
}

type headlinePart struct{ Class, Symbol, Text string }

// plotsView is a row of plots with one legend for all.
type plotsView struct {
	Plots  []plotView
	Legend []legendView
}

type plotView struct {
	Title string
	SVG   template.HTML
}

type legendView struct {
	SVG  template.HTML
	Name string
}

type sheetView struct {
	Sheet
	Source        template.URL
	Width, Height int
}

type stageView struct {
	Name   string
	Phases []phaseView
}

type phaseView struct {
	Name   string
	Phase  Phase
	Health *healthView
	Notes  []string
	Curves []curveView
}

type healthView struct {
	Health
	Class string
}

type curveView struct {
	Name string
	SVG  template.HTML
}

type sortColumn struct {
	Name    string
	Numeric bool
}

type rowView struct {
	Model, Metric, Convention  string
	Kind                       Kind
	Steps, Calls, Samples      int
	Value, Low, High           string
	Shown, ShownLow, ShownHigh string
}

func renderPage(r *Report) ([]byte, error) {
	p := &page{
		R: r, CSS: template.CSS(pageCSS), JS: template.JS(pageJS), Blank: blankImage,
		Headline: r.headline(), Targets: r.viewTargets(), Warnings: r.warnings(), Metrics: r.metricsInUse(), Judged: r.judged(), Timed: len(r.Timings) > 0,
		SortColumns: []sortColumn{{"model", false}, {"steps", true}, {"calls", true}, {"kind", false}, {"metric", false}, {"convention", false}, {"value", true}, {"low", true}, {"high", true}, {"samples", true}},
	}
	p.Devices = r.devices()
	p.Policy = "default-src 'none'; img-src data:; style-src " + hashSource(pageCSS) + "; script-src " + hashSource(pageJS) + "; base-uri 'none'; form-action 'none'"
	p.Columns = 3 + len(p.Metrics)
	if p.Timed {
		p.Columns++
	}
	for _, m := range p.Metrics {
		if row, ok := r.teacherRow(m); ok {
			p.TeacherName = fmt.Sprintf("teacher at %d steps%s", row.Steps, strings.TrimPrefix(guidance(row.Steps, row.Calls), ","))
			break
		}
	}
	for _, t := range r.stepTables() {
		p.Tables = append(p.Tables, r.viewTable(t, p.Metrics))
		p.Published = p.Published || len(t.Published) > 0
	}
	r.viewPlots(p)
	for i, s := range r.Sheets {
		config, err := png.DecodeConfig(bytes.NewReader(s.PNG))
		if err != nil {
			return nil, fmt.Errorf("sheet %d (%s): %w", i, s.Title, err)
		}
		if s.Alt == "" {
			s.Alt = strings.TrimSpace(s.Title + ". " + s.Caption)
		}
		p.Sheets = append(p.Sheets, sheetView{s, template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(s.PNG)), config.Width, config.Height})
	}
	r.viewStages(p)
	for _, row := range r.Rows {
		v := rowView{
			Model: row.Model, Metric: row.Metric, Convention: row.Convention, Kind: row.Kind,
			Steps: row.Steps, Calls: row.Calls, Samples: row.Samples,
			Value: number(row.Value), Shown: Significant(row.Value, row.Low, row.High), ShownLow: "–", ShownHigh: "–",
		}
		if row.HasInterval() {
			v.Low, v.High = number(row.Low), number(row.High)
			v.ShownLow, v.ShownHigh = Significant(row.Low, row.Low, row.High), Significant(row.High, row.Low, row.High)
		}
		p.All = append(p.All, v)
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// hashSource allows exactly this inline text.
func hashSource(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (r *Report) viewTable(t stepTable, metrics []Metric) tableView {
	v := tableView{
		ID:    fmt.Sprintf("steps-%d-calls-%d", t.Steps, t.Calls),
		Title: fmt.Sprintf("%s, %s per image", plural(t.Steps, "step"), plural(t.Calls, "network call")),
		Calls: t.Calls,
	}
	for _, o := range r.opponents() {
		against, met := againstView{Opponent: o.Name}, false
		for _, m := range r.judged() {
			verdict, ours, theirs := t.judge(m, o)
			against.Verdicts = append(against.Verdicts, viewVerdict(m, verdict, ours, theirs))
			met = met || verdict != NoRival
		}
		if met {
			v.Against = append(v.Against, against)
		}
	}
	everyone := func(entry) bool { return true }
	bests := make([]Row, len(metrics))
	for i, m := range metrics {
		bests[i], _ = best(m, t.Same, everyone)
	}
	for _, g := range []struct {
		title, class string
		entries      []entry
		contest      bool
	}{
		{"Same number of calls: " + strconv.Itoa(t.Calls), "", t.Same, len(t.Same) > 1},
		{"More calls, for orientation", "aside", t.Others, false},
		{"Real images that were held out; a model that repeats training images can come closer", "aside", t.Floor, false},
		{"Published for SDXL: other network, other prompts and images", "aside", t.Published, false},
	} {
		if len(g.entries) == 0 {
			continue
		}
		group := groupView{Title: g.title, Class: g.class}
		for _, e := range g.entries {
			view := entryView{Label: e.Label(), Model: e.Model, Note: e.Note, Class: entryClass(e), Steps: strconv.Itoa(e.Steps), Calls: strconv.Itoa(e.Calls), Cost: plural(e.Steps, "step") + ", " + plural(e.Calls, "call"), Time: r.timeOf(e)}
			if e.Kind == Real {
				view.Steps, view.Calls, view.Cost = "–", "–", ""
			}
			for i, m := range metrics {
				if e.Note != "" {
					view.Cells = append(view.Cells, r.publishedCell(e, m))
					continue
				}
				row, ok := e.rows[m]
				if !ok {
					view.Cells = append(view.Cells, cellView{})
					continue
				}
				cell := cellView{Value: Significant(row.Value, row.Low, row.High), Best: g.contest && row.sameModel(bests[i])}
				if row.HasInterval() {
					cell.Interval = Significant(row.Low, row.Low, row.High) + " to " + Significant(row.High, row.Low, row.High)
				}
				if teacher, ok := r.teacherRow(m); ok && teacher.Value > 0 && e.Kind != Real {
					cell.Ratio = "×" + strconv.FormatFloat(row.Value/teacher.Value, 'f', 2, 64) + " teacher"
					if !row.sameModel(teacher) && row.HasInterval() && !row.apart(teacher) {
						cell.Ratio += ", within uncertainty"
					}
				}
				view.Cells = append(view.Cells, cell)
			}
			group.Entries = append(group.Entries, view)
		}
		v.Groups = append(v.Groups, group)
	}
	return v
}

func viewVerdict(m Metric, verdict Verdict, ours, theirs Row) verdictView {
	view := verdictView{Words: verdict.Words()}
	if verdict == NoRival {
		return view
	}
	view.Class, view.Symbol = verdict.class(), verdict.symbol()
	view.Ours = Significant(ours.Value, ours.Low, ours.High) + " " + map[Kind]string{Full: "full", LoRA: "LoRA"}[ours.Kind]
	view.Theirs = Significant(theirs.Value, theirs.Low, theirs.High) + " "
	switch theirs.Kind {
	case Earlier, Rival:
		view.Theirs += theirs.Model
	default:
		view.Theirs += "undistilled, " + plural(theirs.Steps, "step") + guidance(theirs.Steps, theirs.Calls)
	}
	if d, ok := m.off(ours).difference(m.off(theirs)); ok {
		of := ""
		if m.Ideal != 0 {
			of = fmt.Sprintf(" in how far from %g", m.Ideal)
		}
		view.Difference = "difference" + of + " " + Significant(d.Value, d.Low, d.High) + ", " + Significant(d.Low, d.Low, d.High) + " to " + Significant(d.High, d.Low, d.High)
	}
	return view
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}

func entryClass(e entry) string {
	switch {
	case e.Kind == Full || e.Kind == LoRA:
		return string(e.Kind)
	case e.Kind == Real:
		return "floor"
	case e.Kind == Earlier || e.Kind == Rival:
		return string(e.Kind)
	case e.Calls >= 2*e.Steps:
		return "guided"
	}
	return "unguided"
}

func (r *Report) timeOf(e entry) string {
	t, ok := r.timing(e.Model, e.Kind, e.Steps, e.Calls)
	switch {
	case !ok:
		return "–"
	case t.SecondsPerImage < 1:
		return short(1000*t.SecondsPerImage) + " ms"
	}
	return short(t.SecondsPerImage) + " s"
}

// viewPlots adds every metric against calls and against measured time.
func (r *Report) viewPlots(p *page) {
	p.Plots = r.plotsAgainst("calls", "network calls per image", p.Metrics, func(row Row) (float64, bool) { return float64(row.Calls), true })
	p.TimePlots = r.plotsAgainst("time", "milliseconds per image", p.Metrics, func(row Row) (float64, bool) {
		t, ok := r.timing(row.Model, row.Kind, row.Steps, row.Calls)
		return 1000 * t.SecondsPerImage, ok
	})
}

func (r *Report) plotsAgainst(id, cost string, metrics []Metric, at func(Row) (float64, bool)) plotsView {
	var out plotsView
	explain := func(class, shape, name string) {
		if l := (legendView{swatch(class, shape), name}); !slices.Contains(out.Legend, l) {
			out.Legend = append(out.Legend, l)
		}
	}
	for i, m := range metrics {
		q := r.qualityPlot(fmt.Sprintf("plot-%s-%d", id, i), m, cost, at)
		if q.svg == "" {
			continue
		}
		out.Plots = append(out.Plots, plotView{q.title, template.HTML(q.svg)})
		for _, s := range q.series {
			explain(s.Class, s.Shape, s.Name)
		}
		if q.teacher != "" {
			explain("teacher", "", q.teacher)
		}
		if q.floor {
			explain("floor", "", "held-out real images (repeating training images can come closer)")
		}
	}
	return out
}

func (r *Report) timing(model string, kind Kind, steps, calls int) (Timing, bool) {
	for _, t := range r.Timings {
		if t.Model == model && t.Kind == kind && t.Steps == steps && t.Calls == calls {
			return t, true
		}
	}
	return Timing{}, false
}

// devices names what the times were measured on.
func (r *Report) devices() string {
	var names []string
	for _, t := range r.Timings {
		if t.Device != "" && !slices.Contains(names, t.Device) {
			names = append(names, t.Device)
		}
	}
	return enumerate(names)
}

func swatch(class, shape string) template.HTML {
	s := `<svg viewBox="0 0 36 14" aria-hidden="true"><line class="line ` + class + `" x1="1" y1="7" x2="35" y2="7"/>`
	if shape != "" {
		s += `<path class="mark ` + class + `" transform="translate(18 7)" d="` + shapes[shape] + `"/>`
	}
	return template.HTML(s + `</svg>`)
}

func (r *Report) viewStages(p *page) {
	for i, stage := range r.Stages {
		view := stageView{Name: stage.Name}
		for j, phase := range stage.Phases {
			pv := phaseView{Name: phase.Name, Phase: phase, Notes: phase.Notes}
			if phase.adversarial() {
				p.Adversarial = true
				h := DiscriminatorHealth(phase.curve(DLossCurve), phase.curve(AccuracyCurve), phase.curve(PairedCurve), phase.curve(LogitGapCurve))
				class := map[string]string{"balanced": "good", "collapsed": "bad"}[h.State]
				if class == "" {
					class = "mid"
				}
				pv.Health = &healthView{h, class}
			}
			for k, curve := range phase.Curves {
				if svg := curvePlot(fmt.Sprintf("curve-%d-%d-%d", i, j, k), stage.Name+", "+phase.Name, curve); svg != "" {
					pv.Curves = append(pv.Curves, curveView{curve.Name, template.HTML(svg)})
				}
			}
			view.Phases = append(view.Phases, pv)
		}
		p.Stages = append(p.Stages, view)
	}
}
