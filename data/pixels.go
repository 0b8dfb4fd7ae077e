package data

import "fewstep/data/images"

// square cuts the largest centred square and resizes it to size × size with PIL's bicubic filter, antialiased, where the
// size differs.
func square(m images.RGB, size int) images.RGB {
	if m = m.CenterSquare(); m.Width != size {
		m = m.Resize(size, size, images.Bicubic)
	}
	return m
}

// scalePixels maps 0…255 to [−1, 1].
func scalePixels(pixels []uint8) []float32 {
	out := make([]float32, len(pixels))
	for i, v := range pixels {
		out[i] = float32(v)/127.5 - 1
	}
	return out
}
