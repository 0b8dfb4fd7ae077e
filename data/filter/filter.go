// Package filter chooses rows of a data set by expressions over what is known of them: columns of the source, captions, and
// measurements of the image.
//
// An expression is one of github.com/expr-lang/expr that is true or false, as
//
//	aesthetic >= 5.5 and punsafe < 0.1
//	min(width, height) >= 1024 and sharpness > 100
//
// Names are columns of the source in any case. Some have common aliases: aesthetic also stands for AESTHETIC_SCORE and
// COYO's aesthetic_score_laion_v2, watermark for pwatermark and watermark_score, unsafe for punsafe, similarity for
// DataComp's clip_l14_similarity_score. Always there are key, caption, words (of the caption), width and height (of the image as it is shown, before
// cropping), pixels, ratio (width through height), format, bytes, and sharpness.
//
// A row that lacks a column of an expression is removed by it, and counted apart.
package filter

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"fewstep/data/images"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"
)

// Recipes are filters by name.
var Recipes = map[string][]string{
	// SDXL-Lightning, section 4: LAION and COYO, more than 1024 px, aesthetic score above 5.5, filtered by sharpness. The
	// paper gives no threshold of sharpness and trains on squares: 100 is the usual border of blur, and an image whose longer
	// side is more than a third longer than the shorter loses too much by a square crop.
	"paper": {"min(width, height) > 1024", "aesthetic > 5.5", "max(width, height) <= 1.34 * min(width, height)", "sharpness > 100"},
}

// Row is what an expression may ask of a row.
type Row struct {
	Key, Caption string
	Columns      map[string]any
	Image        func() (images.Info, error) // format and size; asked only if an expression wants them
	Bytes        func() (int, error)
	Sharpness    func() (float64, error)
}

// Filter is a compiled expression.
type Filter struct {
	Text    string
	program *vm.Program
	names   []string // in lower case, in the order of the text
}

var aliases = map[string][]string{
	"aesthetic":  {"aesthetic", "aesthetic_score", "aesthetic_score_laion_v2", "aesthetics", "aesthetic_score_laion"},
	"watermark":  {"watermark", "pwatermark", "watermark_score"},
	"unsafe":     {"unsafe", "punsafe"},
	"similarity": {"similarity", "clip_l14_similarity_score", "clip_b32_similarity_score", "clip_similarity_vitl14"},
}

// alias finds the group of a name.
func alias(name string) []string {
	for _, group := range aliases {
		if slices.Contains(group, name) {
			return group
		}
	}
	return []string{name}
}

// lower makes identifiers lower-case, and collects them.
type lower struct{ names []string }

func (l *lower) Visit(node *ast.Node) {
	if id, ok := (*node).(*ast.IdentifierNode); ok {
		id.Value = strings.ToLower(id.Value)
		if !slices.Contains(l.names, id.Value) {
			l.names = append(l.names, id.Value)
		}
	}
}

// Compile checks an expression.
func Compile(text string) (*Filter, error) {
	l := &lower{}
	program, err := expr.Compile(text, expr.AllowUndefinedVariables(), expr.Patch(l), expr.AsBool())
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", text, err)
	}
	return &Filter{text, program, l.names}, nil
}

// ErrLacks is wrapped where a row has no value for a name of an expression.
var ErrLacks = errors.New("has no value of this name")

// Keep says whether a row passes. An error that wraps ErrLacks names a column that the row has not; another one is of the
// image, or of values that cannot be compared.
func (f *Filter) Keep(r Row) (bool, error) {
	env := make(map[string]any, len(f.names))
	columns := make(map[string]any, len(r.Columns))
	for name, v := range r.Columns {
		columns[strings.ToLower(name)] = v
	}
	for _, name := range f.names {
		v, err := value(name, r, columns)
		if err != nil {
			return false, err
		}
		env[name] = v
	}
	out, err := expr.Run(f.program, env)
	if err != nil {
		return false, fmt.Errorf("filter %q: %s", f.Text, firstLine(err.Error()))
	}
	keep, ok := out.(bool)
	if !ok {
		return false, fmt.Errorf("filter %q gives %v, which is neither true nor false", f.Text, out)
	}
	return keep, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func value(name string, r Row, columns map[string]any) (any, error) {
	switch name {
	case "key":
		return r.Key, nil
	case "caption":
		return r.Caption, nil
	case "words":
		return len(strings.Fields(r.Caption)), nil
	case "bytes":
		return r.Bytes()
	case "width", "height", "pixels", "ratio", "format":
		info, err := r.Image()
		if err != nil {
			return nil, err
		}
		switch name {
		case "width":
			return info.Width, nil
		case "height":
			return info.Height, nil
		case "pixels":
			return info.Width * info.Height, nil
		case "ratio":
			return float64(info.Width) / float64(info.Height), nil
		}
		return info.Format, nil
	case "sharpness":
		return r.Sharpness()
	}
	for _, other := range append([]string{name}, alias(name)...) {
		if v, ok := columns[other]; ok && v != nil {
			if f, isNumber := v.(float64); isNumber && math.IsNaN(f) {
				continue
			}
			return v, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", name, ErrLacks)
}

// Sharpness is the variance of the Laplacian (4 neighbours, weights 1 and −4) of an image's luma (ITU-R BT.601, in grey
// levels), measured on the image resized so that it covers a square of the side that is trained on: a photograph's
// sharpness depends on its resolution. An image that is smaller is measured as it is.
func Sharpness(m images.RGB, side int) float64 {
	if short := min(m.Width, m.Height); side > 0 && short > side {
		m = m.Resize(max(side, (m.Width*side+short/2)/short), max(side, (m.Height*side+short/2)/short), images.Bicubic)
	}
	if m.Width < 3 || m.Height < 3 {
		return 0
	}
	luma := make([]float64, m.Width*m.Height)
	for i := range luma {
		luma[i] = 0.299*float64(m.Pix[3*i]) + 0.587*float64(m.Pix[3*i+1]) + 0.114*float64(m.Pix[3*i+2])
	}
	var sum, squares float64
	for y := 1; y < m.Height-1; y++ {
		for x := 1; x < m.Width-1; x++ {
			at := y*m.Width + x
			v := luma[at-1] + luma[at+1] + luma[at-m.Width] + luma[at+m.Width] - 4*luma[at]
			sum += v
			squares += v * v
		}
	}
	n := float64((m.Width - 2) * (m.Height - 2))
	return squares/n - sum/n*(sum/n)
}

// Values describes a row by what the expression asks of it: "aesthetic 4.9, width 800".
func (f *Filter) Values(r Row) string {
	columns := make(map[string]any, len(r.Columns))
	for name, v := range r.Columns {
		columns[strings.ToLower(name)] = v
	}
	var out []string
	for _, name := range f.names {
		if name == "key" || name == "caption" {
			continue
		}
		if v, err := value(name, r, columns); err == nil {
			if x, isFloat := v.(float64); isFloat {
				v = fmt.Sprintf("%.4g", x)
			}
			out = append(out, fmt.Sprintf("%s %v", name, v))
		}
	}
	return strings.Join(out, ", ")
}
