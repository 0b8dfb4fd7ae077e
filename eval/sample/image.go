package sample

import (
	"image"
	"image/color"
	"math"

	"fewstep/model/pipeline"
)

// Image turns [H·W·3] in [−1, 1] into 8-bit RGB, rounded to nearest and clamped as diffusers' image processor does.
func Image(v []float32, size pipeline.Size) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, size.Width, size.Height))
	for y := range size.Height {
		for x := range size.Width {
			at := (y*size.Width + x) * 3
			img.SetNRGBA(x, y, color.NRGBA{level(v[at]), level(v[at+1]), level(v[at+2]), 255})
		}
	}
	return img
}

func level(x float32) uint8 {
	return uint8(math.RoundToEven(255 * min(max(float64(x)/2+0.5, 0), 1)))
}
