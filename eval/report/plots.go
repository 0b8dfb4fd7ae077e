package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// series is one line of a quality plot.
type series struct {
	Class, Shape, Name string
	belongs            func(Row) bool
}

var qualitySeries = []series{
	{"full", "circle", "distilled, full", func(r Row) bool { return r.Kind == Full }},
	{"lora", "square", "distilled, LoRA", func(r Row) bool { return r.Kind == LoRA }},
	{"rival", "plus", "other runs", func(r Row) bool { return r.Kind == Rival }},
	{"earlier", "down", "student of more steps, no further training", func(r Row) bool { return r.Kind == Earlier }},
	{"guided", "triangle", "undistilled, guided (two calls per step)", func(r Row) bool { return (r.Kind == Undistilled || r.Kind == Teacher) && r.Guided() }},
	{"unguided", "diamond", "undistilled, unguided", func(r Row) bool { return (r.Kind == Undistilled || r.Kind == Teacher) && !r.Guided() }},
}

// quality is a drawn plot and what its legend must name.
type quality struct {
	title, svg string
	series     []series
	teacher    string // name of the teacher's level; "" without one
	floor      bool
}

// qualityPlot draws a metric against what an image costs (at gives it, where
// known). The svg is empty with fewer than two points.
func (r *Report) qualityPlot(id string, m Metric, xTitle string, at func(Row) (float64, bool)) quality {
	type point struct {
		x float64
		Row
	}
	lines := make([][]point, len(qualitySeries))
	var floors []Row
	low, high := math.Inf(1), math.Inf(-1)
	xLow, xHigh := math.Inf(1), math.Inf(-1)
	n := 0
	var described []string
	for _, row := range r.Rows {
		if r.metric(row.Metric, row.Convention) != m {
			continue
		}
		if row.Kind == Real {
			floors = append(floors, row)
			low, high = math.Min(low, row.Value), math.Max(high, row.Value)
			continue
		}
		x, ok := at(row)
		if !ok || x <= 0 {
			continue
		}
		for i, s := range qualitySeries {
			if s.belongs(row) {
				lines[i] = append(lines[i], point{x, row})
				n++
			}
		}
		low, high = math.Min(low, row.Value), math.Max(high, row.Value)
		if row.HasInterval() {
			low, high = math.Min(low, row.Low), math.Max(high, row.High)
		}
		xLow, xHigh = math.Min(xLow, x), math.Max(xHigh, x)
	}
	if n < 2 {
		return quality{}
	}
	logY := low > 0 && high/low > 6
	if !logY && low > 0 && low < 0.3*high {
		low = 0
	}
	xs := scale{xLow / 1.25, xHigh * 1.25, true}
	for i, s := range qualitySeries {
		slices.SortStableFunc(lines[i], func(a, b point) int { return compareFloats(a.x, b.x) })
		if len(lines[i]) > 0 {
			var values []string
			for _, p := range lines[i] {
				values = append(values, fmt.Sprintf("%s at %s", Significant(p.Value, p.Low, p.High), tickLabel(p.x)))
			}
			described = append(described, s.Name+": "+strings.Join(values, ", "))
		}
	}
	out := quality{title: fmt.Sprintf("%s, %s", metricTitle(m), m.Direction())}
	c := newChart(id, out.title+", against "+xTitle, strings.Join(described, ". "), 480, 340, xs, spanning(low, high, logY))
	var xTicks []float64
	for v := math.Pow(2, math.Ceil(math.Log2(xs.min))); v <= xs.max; v *= 2 {
		xTicks = append(xTicks, v)
	}
	c.axes(xTicks, c.y.ticks(5), xTitle+" (log scale)", m.Name)
	for _, f := range floors {
		c.level(f.Value, "line floor")
		out.floor = true
	}
	if t, ok := r.teacherRow(m); ok {
		c.level(t.Value, "line teacher")
		out.teacher = fmt.Sprintf("level of the teacher at %d steps%s", t.Steps, strings.TrimPrefix(guidance(t.Steps, t.Calls), ","))
	}
	for i, s := range qualitySeries {
		if len(lines[i]) == 0 {
			continue
		}
		out.series = append(out.series, s)
		var px, py []float64
		for _, p := range lines[i] {
			px, py = append(px, p.x), append(py, p.Value)
		}
		if s.Class != "rival" { // several models of several runs
			c.line("line "+s.Class, px, py)
		}
		for _, p := range lines[i] {
			if p.HasInterval() {
				c.whisker("whisker "+s.Class, p.x, p.Low, p.High)
			}
		}
		for _, p := range lines[i] {
			text := fmt.Sprintf("%s, %d steps, %d calls: %s", p.Model, p.Steps, p.Calls, Significant(p.Value, p.Low, p.High))
			if p.HasInterval() {
				text += fmt.Sprintf(" (%s to %s)", Significant(p.Low, p.Low, p.High), Significant(p.High, p.Low, p.High))
			}
			c.mark("mark "+s.Class, s.Shape, p.x, p.Value, text)
		}
	}
	out.svg = c.done()
	return out
}

func compareFloats(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// maxCurvePoints is what a small chart can show.
const maxCurvePoints = 160

// curvePlot draws one training curve: the mean of each bucket of points as a
// line over the band of their extremes.
func curvePlot(id, where string, curve Curve) string {
	var points []Point
	for _, p := range curve.Points {
		if !math.IsNaN(p.Value) && !math.IsInf(p.Value, 0) {
			points = append(points, p)
		}
	}
	if len(points) < 2 {
		return ""
	}
	buckets := min(maxCurvePoints, len(points))
	xs, mean := make([]float64, buckets), make([]float64, buckets)
	lows, highs := make([]float64, buckets), make([]float64, buckets)
	for i := range buckets {
		part := points[i*len(points)/buckets : (i+1)*len(points)/buckets]
		lows[i], highs[i] = math.Inf(1), math.Inf(-1)
		for _, p := range part {
			xs[i] += float64(p.Samples) / float64(len(part))
			mean[i] += p.Value / float64(len(part))
			lows[i], highs[i] = math.Min(lows[i], p.Value), math.Max(highs[i], p.Value)
		}
	}
	low, high := slices.Min(lows), slices.Max(highs)
	y := spanning(low, high, low > 0 && high/low > 30)
	if curve.Name == AccuracyCurve || curve.Name == PairedCurve {
		y = scale{0, 1, false}
	}
	x := scale{float64(points[0].Samples), float64(points[len(points)-1].Samples), false}
	if x.min < x.max/10 {
		x.min = 0
	}
	if x.max <= x.min {
		return ""
	}
	first, last := mean[0], mean[buckets-1]
	c := newChart(id, curve.Name+", "+where,
		fmt.Sprintf("from %s to %s over %s samples, lowest %s, highest %s", short(first), short(last), tickLabel(x.max-x.min), short(low), short(high)),
		300, 170, x, y)
	c.top, c.bottom, c.left = 8, 38, 46
	ticks := c.y.ticks(4)
	c.axes(c.x.ticks(5), ticks, "training samples", "")
	if curve.Name == AccuracyCurve || curve.Name == PairedCurve {
		c.level(0.5, "line chance")
	}
	if len(points) > buckets {
		var band strings.Builder
		for i := range xs {
			fmt.Fprintf(&band, "%s,%s ", c.px(xs[i]), c.py(highs[i]))
		}
		for i := len(xs) - 1; i >= 0; i-- {
			fmt.Fprintf(&band, "%s,%s ", c.px(xs[i]), c.py(lows[i]))
		}
		fmt.Fprintf(&c.b, `<polygon class="band" points="%s"/>`, strings.TrimSpace(band.String()))
	}
	c.line("line curve", xs, mean)
	return c.done()
}

func short(v float64) string { return fmt.Sprintf("%.3g", v) }
