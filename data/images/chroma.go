package images

import "image"

// chromaPlanes is what an AVIF file says of its colours' planes: how many pixels share a value in each direction (1 or 2), and the luma
// weights of red and blue (ITU-T H.273, matrix coefficients).
type chromaPlanes struct {
	x, y   int
	kr, kb float64
}

// matrices are the weights by H.273's number; BT.601 stands for the rest, as in libavif.
var matrices = map[uint16][2]float64{1: {0.2126, 0.0722}, 4: {0.30, 0.11}, 5: {0.299, 0.114}, 6: {0.299, 0.114}, 7: {0.212, 0.087}, 9: {0.2627, 0.0593}}

// interpolate does what libavif does by default, and so Pillow, and what the decoder at hand leaves out: pixels between the
// centres of two chroma values take a quarter of the farther one in each direction, while the decoder repeats the nearest.
//
// A pixel is its luma in all three channels plus what its chroma adds, which is linear and the same for all pixels that share a
// value; so a block's chroma is the mean of that difference over its pixels that no channel's bounds have cut, and each pixel is
// corrected by the difference between the interpolated chroma and its block's. What was cut is lost: beside the most saturated
// colours, pixels still differ from Pillow's. m is img on white, where chroma adds so much less as a pixel is transparent.
func (c chromaPlanes) interpolate(m RGB, img image.Image) {
	if c.x == 1 && c.y == 1 {
		return
	}
	opacity := func(x, y int) float64 { return 1 }
	if o, ok := img.(interface{ Opaque() bool }); ok && !o.Opaque() {
		b := img.Bounds()
		opacity = func(x, y int) float64 {
			_, _, _, a := img.At(b.Min.X+x, b.Min.Y+y).RGBA()
			return float64(a) / 0xffff
		}
	}
	w, h := (m.Width+c.x-1)/c.x, (m.Height+c.y-1)/c.y
	own := make([][3]float64, w*h)
	for by := range h {
		for bx := range w {
			own[by*w+bx] = c.block(m, opacity, bx, by)
		}
	}
	for y := range m.Height {
		rows, far := neighbours(y, c.y, h)
		for x := range m.Width {
			alpha := opacity(x, y)
			columns, across := neighbours(x, c.x, w)
			from := own[rows[0]*w+columns[0]]
			p := m.Pix[3*(y*m.Width+x):]
			for k := range 3 {
				near := (1-across)*own[rows[0]*w+columns[0]][k] + across*own[rows[0]*w+columns[1]][k]
				other := (1-across)*own[rows[1]*w+columns[0]][k] + across*own[rows[1]*w+columns[1]][k]
				v := float64(p[k]) + alpha*((1-far)*near+far*other-from[k])
				p[k] = uint8(min(max(v+0.5, 0), 255))
			}
		}
	}
}

// neighbours are the chroma value that a pixel lies in, the next nearest one, and the weight of that.
func neighbours(at, shared, n int) (near [2]int, weight float64) {
	i := at / shared
	if shared == 1 {
		return [2]int{i, i}, 0
	}
	next := i - 1 + 2*(at%2)
	return [2]int{i, min(max(next, 0), n-1)}, 0.25
}

// block is what a chroma value adds to red, green and blue.
func (c chromaPlanes) block(m RGB, opacity func(x, y int) float64, bx, by int) (sum [3]float64) {
	for _, cut := range []bool{false, true} { // where every pixel is cut, all of them count
		n := 0.0
		for y := by * c.y; y < min((by+1)*c.y, m.Height); y++ {
			for x := bx * c.x; x < min((bx+1)*c.x, m.Width); x++ {
				p := m.Pix[3*(y*m.Width+x):][:3]
				alpha := opacity(x, y)
				if !cut && (float64(min(p[0], p[1], p[2])) < 255*(1-alpha)+0.5 || max(p[0], p[1], p[2]) == 255) {
					continue
				}
				luma := c.kr*float64(p[0]) + (1-c.kr-c.kb)*float64(p[1]) + c.kb*float64(p[2])
				for k := range 3 {
					sum[k] += float64(p[k]) - luma
				}
				n += alpha
			}
		}
		if n > 0 {
			return [3]float64{sum[0] / n, sum[1] / n, sum[2] / n}
		}
	}
	return sum
}
