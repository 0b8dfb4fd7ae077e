package report

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"

	"golang.org/x/image/font/gofont/goregular"
)

func uniform(w, h int, c color.RGBA) image.Image {
	im := image.NewRGBA(image.Rect(3, 5, 3+w, 5+h)) // bounds need not start at 0
	for y := 5; y < 5+h; y++ {
		for x := 3; x < 3+w; x++ {
			im.SetRGBA(x, y, c)
		}
	}
	return im
}

func TestComposeSheet(t *testing.T) {
	red, blue := color.RGBA{200, 0, 0, 255}, color.RGBA{0, 0, 200, 255}
	raw, err := ComposeSheet([][]image.Image{{uniform(64, 64, red), uniform(64, 64, blue)}, {uniform(64, 64, blue), nil}},
		[]string{"a red bear", "nothing"}, []string{"teacher, 32 steps", "full"})
	if err != nil {
		t.Fatal(err)
	}
	im, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[color.RGBA]int{}
	dark := 0
	for y := range im.Bounds().Dy() {
		for x := range im.Bounds().Dx() {
			c := color.RGBAModel.Convert(im.At(x, y)).(color.RGBA)
			counts[c]++
			if c.R < 90 && c.G < 90 && c.B < 90 {
				dark++
			}
		}
	}
	if counts[red] != 128*128 || counts[blue] != 2*128*128 {
		t.Errorf("%d red and %d blue pixels, want each 64 px image at twice its size: %d and %d", counts[red], counts[blue], 128*128, 2*128*128)
	}
	if dark < 200 {
		t.Errorf("%d dark pixels: the labels are missing", dark)
	}
	again, _ := ComposeSheet([][]image.Image{{uniform(64, 64, red), uniform(64, 64, blue)}, {uniform(64, 64, blue), nil}},
		[]string{"a red bear", "nothing"}, []string{"teacher, 32 steps", "full"})
	if !bytes.Equal(raw, again) {
		t.Error("the same sheet gave different bytes")
	}
}

func TestComposeSheetSizes(t *testing.T) {
	for _, side := range []int{1, 32, 100, 299} {
		if _, err := ComposeSheet([][]image.Image{{uniform(side, side, color.RGBA{A: 255})}}, nil, nil); err != nil {
			t.Errorf("%d pixels: %v", side, err)
		}
	}
	for name, rows := range map[string][][]image.Image{"none": nil, "empty": {{}, {}}, "nil": {{nil}}} {
		if _, err := ComposeSheet(rows, nil, []string{"x"}); err == nil {
			t.Errorf("%s: a sheet of no images", name)
		}
	}
	if _, err := ComposeSheet([][]image.Image{{uniform(4, 4, color.RGBA{})}}, []string{"a", "b"}, nil); err == nil {
		t.Error("more labels than rows")
	}
}

func TestWrap(t *testing.T) {
	f, err := face(goregular.TTF)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text  string
		width int
		lines int
		want  string
	}{
		{"a bear by the sea", 200, 3, "a bear by the sea"},
		{"", 200, 3, ""},
		{"one two three four five six", 60, 9, "one two|three four|five six"},
		{"one two three four five six", 60, 2, "one two|three fo…"},
	} {
		if got := strings.Join(wrap(f, c.text, c.width, c.lines), "|"); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
	long := wrap(f, strings.Repeat("W", 100), 80, 100)
	if len(long) < 8 || strings.Join(long, "") != strings.Repeat("W", 100) {
		t.Errorf("a long word is broken into %q", long)
	}
	if got := wrap(f, "WWWW", 1, 5); len(got) == 0 {
		t.Error("a width below one letter loses everything")
	}
}
