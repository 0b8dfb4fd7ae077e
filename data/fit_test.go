package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image/png"
	"os"
	"testing"

	"fewstep/data/bucket"
	"fewstep/data/images"
)

// fitImage is drawn of testdata/fit.py.
func fitImage(width, height int) images.RGB {
	m := images.New(width, height)
	for i := range m.Pix {
		c, x, y := i%3, i/3%width, i/3/width
		v := uint32(i)*2654435761/33554432 + uint32(3*x*(c+1)+5*y)%128
		switch {
		case (x/9+y/7)%5 == 0:
			v = 0
		case (x/11+y/5)%5 == 0:
			v = 255
		}
		m.Pix[i] = uint8(v)
	}
	return m
}

// Images of 240 sizes become oblong and square shapes as Pillow makes them, to the bit, whether made smaller or larger.
func TestFitsAsPillow(t *testing.T) {
	raw, err := os.ReadFile("testdata/fit.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Image, Shape [2]int
		SHA256       string
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	larger, oblong := 0, 0
	for _, c := range cases {
		var file bytes.Buffer
		if err := png.Encode(&file, fitImage(c.Image[0], c.Image[1]).Image()); err != nil {
			t.Fatal(err)
		}
		shape := bucket.Size{Width: c.Shape[0], Height: c.Shape[1]}
		pixels, fit, err := Fitted(file.Bytes(), func(image bucket.Size) bucket.Size {
			if image.Width != c.Image[0] || image.Height != c.Image[1] {
				t.Errorf("%v has the size %v", c.Image, image)
			}
			return shape
		})
		if err != nil {
			t.Fatal(err)
		}
		levels := make([]byte, len(pixels))
		for i, v := range pixels {
			levels[i] = uint8((v+1)*127.5 + 0.5)
		}
		if sum := sha256.Sum256(levels); hex.EncodeToString(sum[:]) != c.SHA256 || len(levels) != 3*shape.Width*shape.Height {
			t.Errorf("%v to %v: resized to %v, cut at %d, %d: other pixels than Pillow's", c.Image, shape, fit.Resized, fit.Left, fit.Top)
		}
		if fit.Enlarges() {
			larger++
		}
		if shape.Width != shape.Height {
			oblong++
		}
	}
	if larger < 20 || oblong < 200 || len(cases)-larger < 100 {
		t.Errorf("%d of %d are made larger, %d are oblong: the test has no force", larger, len(cases), oblong)
	}
}
