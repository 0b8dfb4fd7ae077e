package sample

import (
	"image"
	"image/color"
	"math"
)

// Image turns [S·S·3] in [−1, 1] into 8-bit RGB, rounded to nearest and clamped as diffusers' image processor does.
func Image(v []float32, side int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			at := (y*side + x) * 3
			img.SetNRGBA(x, y, color.NRGBA{level(v[at]), level(v[at+1]), level(v[at+2]), 255})
		}
	}
	return img
}

func level(x float32) uint8 {
	return uint8(math.RoundToEven(255 * min(max(float64(x)/2+0.5, 0), 1)))
}
