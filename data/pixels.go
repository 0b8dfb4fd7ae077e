package data

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	_ "image/jpeg" // register the decoders that image.Decode chooses from
	_ "image/png"

	xdraw "golang.org/x/image/draw"
	_ "golang.org/x/image/webp"
)

// maxImagePixels bounds what a single image may claim before it is decoded.
const maxImagePixels = 1 << 26

// decodeImage decodes PNG, JPEG or WebP. The decoders of the standard library
// and of x/image are trusted with any bytes, but a panic in one is an error here.
func decodeImage(encoded []byte) (img image.Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			img, err = nil, fmt.Errorf("decoder failed: %v", p)
		}
	}()
	if len(encoded) == 0 {
		return nil, errors.New("image is empty")
	}
	cfg, format, err := image.DecodeConfig(bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("not a PNG, JPEG or WebP image: %w", err)
	}
	if cfg.Width <= 0 || cfg.Height <= 0 || cfg.Width > maxImagePixels/cfg.Height {
		return nil, fmt.Errorf("%s image claims %d×%d pixels", format, cfg.Width, cfg.Height)
	}
	img, _, err = image.Decode(bytes.NewReader(encoded))
	return img, err
}

// squarePixels lays img on white, cuts the largest centred square, resizes it to
// size × size with an anti-aliasing cubic filter where the size differs, and
// returns [size, size, 3], row by row.
func squarePixels(img image.Image, size int) []uint8 {
	b := img.Bounds()
	side := min(b.Dx(), b.Dy())
	from := image.Pt(b.Min.X+(b.Dx()-side)/2, b.Min.Y+(b.Dy()-side)/2)
	square := image.NewRGBA(image.Rect(0, 0, side, side))
	draw.Draw(square, square.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
	draw.Draw(square, square.Bounds(), img, from, draw.Over)
	if side != size {
		scaled := image.NewRGBA(image.Rect(0, 0, size, size))
		xdraw.CatmullRom.Scale(scaled, scaled.Bounds(), square, square.Bounds(), xdraw.Src, nil)
		square = scaled
	}
	out := make([]uint8, 0, size*size*3)
	for i := 0; i < len(square.Pix); i += 4 {
		out = append(out, square.Pix[i:i+3]...)
	}
	return out
}

// scalePixels maps 0…255 to [−1, 1].
func scalePixels(pixels []uint8) []float32 {
	out := make([]float32, len(pixels))
	for i, v := range pixels {
		out[i] = float32(v)/127.5 - 1
	}
	return out
}
