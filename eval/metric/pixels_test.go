package metric

import (
	"encoding/json"
	"image"
	"math"
	"os"
	"testing"

	"fewstep/eval/stats"
)

// patterned is testdata/pixels.py's.
func patterned(w, h, k int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			for c := range 3 {
				img.Pix[y*img.Stride+4*x+c] = byte((k + 7*x*x + 13*x*y + 5*y + 31*c*(x+1)) % 251)
			}
			img.Pix[y*img.Stride+4*x+3] = 255
		}
	}
	return img
}

// Laplacian energy and root mean square agree with scipy and numpy.
func TestPixelsAgainstScipy(t *testing.T) {
	raw, err := os.ReadFile("testdata/pixels.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Width, Height, K int
		Energy, RMS      float64
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) < 5 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		a, b := patterned(c.Width, c.Height, c.K), patterned(c.Width, c.Height, c.K+40)
		if got := LaplacianEnergy(a); math.Abs(got-c.Energy) > 1e-9*c.Energy {
			t.Errorf("%d×%d: energy %.12g, scipy %.12g", c.Width, c.Height, got, c.Energy)
		}
		if got := RMS(Thumbnail(a, 64), Thumbnail(b, 64)); math.Abs(got-c.RMS) > 1e-9*c.RMS {
			t.Errorf("%d×%d: RMS %.12g, numpy %.12g", c.Width, c.Height, got, c.RMS)
		}
	}
	flat := image.NewNRGBA(image.Rect(0, 0, 6, 6))
	if got := LaplacianEnergy(flat); got != 0 {
		t.Errorf("a flat image has the energy %g", got)
	}
}

// A part of an image has its own rows: what lies beside it in the memory of the whole must not be seen.
func TestThumbnailAveragesBlocks(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 5, 4)) // the fifth column falls off
	for i := range img.Pix {
		img.Pix[i] = byte(i)
	}
	got := Thumbnail(img, 3)
	at := func(x, y, c int) int { return int(img.Pix[y*img.Stride+4*x+c]) }
	if len(got) != 2*2*3 {
		t.Fatalf("%d values", len(got))
	}
	for i, v := range got {
		x, y, c := i/3%2, i/6, i%3
		want := (at(2*x, 2*y, c) + at(2*x+1, 2*y, c) + at(2*x, 2*y+1, c) + at(2*x+1, 2*y+1, c) + 2) / 4
		if int(v) != want {
			t.Errorf("value %d is %d, want %d", i, v, want)
		}
	}
}

func TestRelativeSharpness(t *testing.T) {
	iv, err := RelativeSharpness([]float64{2, 4, 6, 8}, 10, stats.Resampling{Resamples: 20, Seed: 1})
	if err != nil || iv.Value != 0.5 || !(iv.Low < 0.5 && iv.High > 0.5) || len(iv.Influences) != 4 {
		t.Errorf("%+v, %v", iv, err)
	}
	if _, err := RelativeSharpness([]float64{1}, 0, stats.Resampling{}); err == nil {
		t.Error("blank real images were measured from")
	}
}
