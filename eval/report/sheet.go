package report

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

const (
	sheetGap      = 6   // pixels between cells
	sheetMargin   = 10  // around everything
	sheetMinCell  = 96  // smaller images are enlarged by a whole factor
	sheetRowLabel = 170 // width of the row captions
	sheetFontSize = 13
)

// ComposeSheet draws images in a grid as a PNG: rows[i][j] stands in row i
// under colLabels[j], with rowLabels[i] at its left, wrapped. Small images are
// enlarged by a whole factor, pixel by pixel, so that nothing is smoothed over.
// A nil image leaves a hatched cell. Labels may be nil.
func ComposeSheet(rows [][]image.Image, rowLabels, colLabels []string) ([]byte, error) {
	columns := len(colLabels)
	var cell image.Point
	for _, row := range rows {
		columns = max(columns, len(row))
		for _, im := range row {
			if im != nil {
				cell.X, cell.Y = max(cell.X, im.Bounds().Dx()), max(cell.Y, im.Bounds().Dy())
			}
		}
	}
	if cell.X == 0 || cell.Y == 0 {
		return nil, errors.New("a sample sheet needs at least one image")
	}
	if len(rowLabels) > len(rows) {
		return nil, fmt.Errorf("a sample sheet has %d row labels for %d rows", len(rowLabels), len(rows))
	}
	factor := max(1, (sheetMinCell+max(cell.X, cell.Y)-1)/max(cell.X, cell.Y))
	cell = cell.Mul(factor)

	regular, err := face(goregular.TTF)
	if err != nil {
		return nil, err
	}
	medium, err := face(gomedium.TTF)
	if err != nil {
		return nil, err
	}
	lineHeight := regular.Metrics().Height.Ceil() + 1
	left := sheetMargin
	if len(rowLabels) > 0 {
		left += sheetRowLabel + sheetGap
	}
	top := sheetMargin
	heads := make([][]string, columns)
	for j, label := range colLabels {
		heads[j] = wrap(medium, label, cell.X, 4)
		top = max(top, sheetMargin+len(heads[j])*lineHeight+sheetGap)
	}
	size := image.Pt(left+columns*(cell.X+sheetGap)-sheetGap+sheetMargin, top+len(rows)*(cell.Y+sheetGap)-sheetGap+sheetMargin)
	canvas := image.NewRGBA(image.Rectangle{Max: size})
	draw.Draw(canvas, canvas.Bounds(), image.White, image.Point{}, draw.Src)

	ascent := regular.Metrics().Ascent.Ceil()
	for j, lines := range heads {
		x := left + j*(cell.X+sheetGap)
		y := top - sheetGap - len(lines)*lineHeight
		for k, line := range lines {
			drawText(canvas, medium, line, x, y+k*lineHeight+ascent)
		}
	}
	for i, row := range rows {
		y := top + i*(cell.Y+sheetGap)
		if i < len(rowLabels) {
			lines := wrap(regular, rowLabels[i], sheetRowLabel, cell.Y/lineHeight)
			start := y + (cell.Y-len(lines)*lineHeight)/2
			for k, line := range lines {
				drawText(canvas, regular, line, sheetMargin, start+k*lineHeight+ascent)
			}
		}
		for j := range columns {
			at := image.Rectangle{Min: image.Pt(left+j*(cell.X+sheetGap), y)}
			at.Max = at.Min.Add(cell)
			if j < len(row) && row[j] != nil {
				drawEnlarged(canvas, at, row[j], factor)
			} else {
				hatch(canvas, at)
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, canvas); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func face(ttf []byte) (font.Face, error) {
	f, err := opentype.Parse(ttf)
	if err != nil {
		return nil, err
	}
	return opentype.NewFace(f, &opentype.FaceOptions{Size: sheetFontSize, DPI: 72, Hinting: font.HintingFull})
}

// wrap breaks text into at most maxLines lines of the given width; what does
// not fit is cut with an ellipsis.
func wrap(f font.Face, text string, width, maxLines int) []string {
	fits := func(s string) bool { return font.MeasureString(f, s).Ceil() <= width }
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		for !fits(word) { // longer than a line: break inside
			cut := len([]rune(word))
			for cut > 1 && !fits(string([]rune(word)[:cut])) {
				cut--
			}
			if cut == len([]rune(word)) {
				break
			}
			if line != "" {
				lines = append(lines, line)
				line = ""
			}
			lines = append(lines, string([]rune(word)[:cut]))
			word = string([]rune(word)[cut:])
		}
		switch {
		case line == "":
			line = word
		case fits(line + " " + word):
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	maxLines = max(maxLines, 1)
	if len(lines) > maxLines {
		lines = lines[:maxLines]
		last := []rune(lines[maxLines-1])
		for len(last) > 0 && !fits(string(last)+"…") {
			last = last[:len(last)-1]
		}
		lines[maxLines-1] = strings.TrimRight(string(last), " ,") + "…"
	}
	return lines
}

func drawText(dst draw.Image, f font.Face, s string, x, baseline int) {
	d := font.Drawer{Dst: dst, Src: image.NewUniform(color.RGBA{22, 25, 29, 255}), Face: f, Dot: fixed.P(x, baseline)}
	d.DrawString(s)
}

// drawEnlarged centres an image in its cell, each pixel factor×factor.
func drawEnlarged(dst *image.RGBA, cell image.Rectangle, im image.Image, factor int) {
	b := im.Bounds()
	offset := image.Pt((cell.Dx()-b.Dx()*factor)/2, (cell.Dy()-b.Dy()*factor)/2)
	for y := range b.Dy() {
		for x := range b.Dx() {
			c := image.NewUniform(im.At(b.Min.X+x, b.Min.Y+y))
			p := cell.Min.Add(offset).Add(image.Pt(x, y).Mul(factor))
			draw.Draw(dst, image.Rectangle{p, p.Add(image.Pt(factor, factor))}, c, image.Point{}, draw.Over)
		}
	}
}

func hatch(dst *image.RGBA, cell image.Rectangle) {
	for y := cell.Min.Y; y < cell.Max.Y; y++ {
		for x := cell.Min.X; x < cell.Max.X; x++ {
			if (x+y)%12 < 2 {
				dst.SetRGBA(x, y, color.RGBA{220, 224, 228, 255})
			}
		}
	}
}
