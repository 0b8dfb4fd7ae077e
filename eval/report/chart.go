package report

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// scale maps a quantity onto an axis, linearly or by logarithm.
type scale struct {
	min, max float64
	log      bool
}

// spanning widens [low, high] to round ends.
func spanning(low, high float64, log bool) scale {
	if log && low > 0 {
		return scale{low / 1.15, high * 1.15, true}
	}
	if high <= low {
		pad := math.Abs(low) * 0.1
		if pad == 0 {
			pad = 1
		}
		low, high = low-pad, high+pad
	}
	step := niceStep(high-low, 5)
	return scale{math.Floor(low/step) * step, math.Ceil(high/step) * step, false}
}

func (s scale) at(v float64) float64 {
	if s.log {
		return math.Log(v/s.min) / math.Log(s.max/s.min)
	}
	return (v - s.min) / (s.max - s.min)
}

func (s scale) ticks(about int) []float64 {
	var out []float64
	if s.log {
		steps := []float64{1, 2, 5}
		if s.max/s.min > 200 {
			steps = steps[:1]
		}
		for e := math.Floor(math.Log10(s.min)); e <= math.Ceil(math.Log10(s.max)); e++ {
			for _, f := range steps {
				if v := f * math.Pow(10, e); v >= s.min && v <= s.max {
					out = append(out, v)
				}
			}
		}
		return out
	}
	step := niceStep(s.max-s.min, about)
	for i := math.Ceil(s.min/step - 1e-9); i*step <= s.max+step*1e-9; i++ {
		out = append(out, i*step+0) // + 0 turns -0 into 0
	}
	return out
}

// niceStep is 1, 2 or 5 times a power of ten, about span/n.
func niceStep(span float64, n int) float64 {
	raw := span / float64(n)
	base := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5} {
		if f*base >= raw*0.999 {
			return f * base
		}
	}
	return 10 * base
}

// tickLabel is short: 0.05, 12, 40k, 1.2M.
func tickLabel(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case a >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// chart draws SVG. Its colours and fonts are classes of page.css, so it
// follows light, dark and print; its text stays text.
type chart struct {
	w, h                     float64
	left, right, top, bottom float64
	x, y                     scale
	b                        strings.Builder
}

// newChart opens the drawing; title and description are what a screen reader
// says.
func newChart(id, title, description string, w, h float64, x, y scale) *chart {
	c := &chart{w: w, h: h, left: 50, right: 14, top: 12, bottom: 40, x: x, y: y}
	fmt.Fprintf(&c.b, `<svg class="chart" viewBox="0 0 %g %g" role="img" aria-labelledby="%s-t %s-d">`, w, h, id, id)
	fmt.Fprintf(&c.b, `<title id="%s-t">%s</title><desc id="%s-d">%s</desc>`, id, html.EscapeString(title), id, html.EscapeString(description))
	return c
}

func (c *chart) px(v float64) string {
	return coordinate(c.left + c.x.at(v)*(c.w-c.left-c.right))
}

func (c *chart) py(v float64) string {
	return coordinate(c.h - c.bottom - c.y.at(v)*(c.h-c.top-c.bottom))
}

func coordinate(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// axes draws grid, tick labels and the two axis titles.
func (c *chart) axes(xTicks, yTicks []float64, xTitle, yTitle string) {
	x0, x1 := coordinate(c.left), coordinate(c.w-c.right)
	y0, y1 := coordinate(c.h-c.bottom), coordinate(c.top)
	for _, v := range yTicks {
		fmt.Fprintf(&c.b, `<line class="grid" x1="%s" y1="%s" x2="%s" y2="%s"/>`, x0, c.py(v), x1, c.py(v))
		c.text(c.left-6, c.h-c.bottom-c.y.at(v)*(c.h-c.top-c.bottom)+4, "end", "tick", tickLabel(v))
	}
	for _, v := range xTicks {
		fmt.Fprintf(&c.b, `<line class="grid" x1="%s" y1="%s" x2="%s" y2="%s"/>`, c.px(v), y0, c.px(v), y1)
		c.text(c.left+c.x.at(v)*(c.w-c.left-c.right), c.h-c.bottom+16, "middle", "tick", tickLabel(v))
	}
	fmt.Fprintf(&c.b, `<line class="axis" x1="%s" y1="%s" x2="%s" y2="%s"/>`, x0, y0, x1, y0)
	c.text((c.left+c.w-c.right)/2, c.h-6, "middle", "label", xTitle)
	if yTitle != "" {
		mid := coordinate((c.top + c.h - c.bottom) / 2)
		fmt.Fprintf(&c.b, `<text class="label" text-anchor="middle" transform="translate(13 %s) rotate(-90)">%s</text>`, mid, html.EscapeString(yTitle))
	}
}

func (c *chart) text(x, y float64, anchor, class, s string) {
	fmt.Fprintf(&c.b, `<text class="%s" text-anchor="%s" x="%s" y="%s">%s</text>`, class, anchor, coordinate(x), coordinate(y), html.EscapeString(s))
}

// level draws a horizontal line across the plot.
func (c *chart) level(v float64, class string) {
	fmt.Fprintf(&c.b, `<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`, class, coordinate(c.left), c.py(v), coordinate(c.w-c.right), c.py(v))
}

// line joins points.
func (c *chart) line(class string, xs, ys []float64) {
	c.b.WriteString(`<polyline class="` + class + `" points="`)
	for i := range xs {
		if i > 0 {
			c.b.WriteByte(' ')
		}
		c.b.WriteString(c.px(xs[i]) + "," + c.py(ys[i]))
	}
	c.b.WriteString(`"/>`)
}

// whisker draws an interval at x.
func (c *chart) whisker(class string, x, low, high float64) {
	at := c.left + c.x.at(x)*(c.w-c.left-c.right)
	fmt.Fprintf(&c.b, `<path class="%s" d="M%s %sV%sM%s %sh7M%s %sh7"/>`, class,
		coordinate(at), c.py(low), c.py(high), coordinate(at-3.5), c.py(low), coordinate(at-3.5), c.py(high))
}

// mark draws one of the shapes, so that series differ without colour.
func (c *chart) mark(class, shape string, x, y float64, title string) {
	fmt.Fprintf(&c.b, `<path class="%s" transform="translate(%s %s)" d="%s"><title>%s</title></path>`,
		class, c.px(x), c.py(y), shapes[shape], html.EscapeString(title))
}

var shapes = map[string]string{
	"circle":   "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",
	"square":   "M-4 -4h8v8h-8z",
	"triangle": "M0 -5.2L5 3.6H-5z",
	"diamond":  "M0 -5.6L5.6 0L0 5.6L-5.6 0z",
	"down":     "M0 5.2L5 -3.6H-5z",
	"plus":     "M-1.6 -5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
}

func (c *chart) done() string {
	c.b.WriteString("</svg>")
	return c.b.String()
}
