package images

import "math"

// Filter is one of PIL's resampling filters. Made smaller, an image is filtered over as many of its pixels as fall
// on one of the result (antialiasing).
type Filter struct {
	support float64
	weight  func(x float64) float64
}

// PIL's filters.
var (
	Bicubic = Filter{2, func(x float64) float64 { // a = −0.5
		const a = -0.5
		switch x = math.Abs(x); {
		case x < 1:
			return ((a+2)*x-(a+3))*x*x + 1
		case x < 2:
			return (((x-5)*x+8)*x - 4) * a
		}
		return 0
	}}
	Lanczos = Filter{3, func(x float64) float64 {
		if -3 <= x && x < 3 {
			return sinc(x) * sinc(x/3)
		}
		return 0
	}}
)

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

// window is how one pixel of the result comes from a line of the source: Σ weights[i]·line[first+i].
type window struct {
	first   int
	weights []float64
}

// windows are a line's, as PIL computes them.
func (f Filter) windows(from, to int) []window {
	scale := float64(from) / float64(to)
	stretch := max(scale, 1)
	support := f.support * stretch
	out := make([]window, to)
	for i := range out {
		centre := (float64(i) + 0.5) * scale
		first := max(int(centre-support+0.5), 0)
		last := min(int(centre+support+0.5), from)
		w, total := make([]float64, last-first), 0.0
		for k := range w {
			w[k] = f.weight((float64(k+first) - centre + 0.5) * (1 / stretch))
			total += w[k]
		}
		if total != 0 {
			for k := range w {
				w[k] /= total
			}
		}
		out[i] = window{first, w}
	}
	return out
}

// ResizeFloat is PIL's resize of each channel as an image of mode F, clipped to 0…255: with [Bicubic] it is
// clean-fid's. Nothing is rounded to whole grey levels.
func (m RGB) ResizeFloat(width, height int, f Filter) Float {
	out := m.Float()
	if width != m.Width {
		out = out.resampleRows(width, f.windows(m.Width, width))
	}
	if height != m.Height {
		out = out.resampleColumns(height, f.windows(m.Height, height))
	}
	for i, v := range out.Pix {
		out.Pix[i] = min(max(v, 0), 255)
	}
	return out
}

func (m Float) resampleRows(width int, windows []window) Float {
	out := Float{width, m.Height, make([]float32, width*m.Height*3)}
	for y := range m.Height {
		row, to := m.Pix[y*m.Width*3:(y+1)*m.Width*3], out.Pix[y*width*3:]
		for x, w := range windows {
			var r, g, b float64
			from := row[w.first*3:]
			for k, weight := range w.weights {
				r += float64(from[3*k]) * weight
				g += float64(from[3*k+1]) * weight
				b += float64(from[3*k+2]) * weight
			}
			to[3*x], to[3*x+1], to[3*x+2] = float32(r), float32(g), float32(b)
		}
	}
	return out
}

func (m Float) resampleColumns(height int, windows []window) Float {
	line := m.Width * 3
	out := Float{m.Width, height, make([]float32, line*height)}
	sums := make([]float64, line)
	for y, w := range windows {
		clear(sums)
		for k, weight := range w.weights {
			for i, v := range m.Pix[(w.first+k)*line : (w.first+k+1)*line] {
				sums[i] += float64(v) * weight
			}
		}
		to := out.Pix[y*line:]
		for i, v := range sums {
			to[i] = float32(v)
		}
	}
	return out
}

// Resize is PIL's resize of an 8-bit image, to the bit: fixed-point weights, rows before columns, and whole grey levels
// in between. (Pillow 13 takes the columns of some tall images first, with results that differ at hard edges; the
// numbers in papers were made with earlier versions, whose order this is.)
func (m RGB) Resize(width, height int, f Filter) RGB {
	if width != m.Width {
		m = m.resampleRows(width, f.windows(m.Width, width))
	}
	if height != m.Height {
		m = m.resampleColumns(height, f.windows(m.Height, height))
	}
	return m
}

// precision is the number of fractional bits of PIL's 8-bit weights.
const precision = 32 - 8 - 2

func fixed(weights []float64) []int32 {
	out := make([]int32, len(weights))
	for i, w := range weights {
		out[i] = int32(math.Round(w * (1 << precision)))
	}
	return out
}

func level(sum int32) uint8 { return uint8(min(max(sum>>precision, 0), 255)) }

func (m RGB) resampleRows(width int, windows []window) RGB {
	out := New(width, m.Height)
	for x, w := range windows {
		weights := fixed(w.weights)
		for y := range m.Height {
			r, g, b := int32(1<<(precision-1)), int32(1<<(precision-1)), int32(1<<(precision-1))
			from := m.Pix[(y*m.Width+w.first)*3:]
			for k, weight := range weights {
				r += int32(from[3*k]) * weight
				g += int32(from[3*k+1]) * weight
				b += int32(from[3*k+2]) * weight
			}
			to := out.Pix[(y*width+x)*3:]
			to[0], to[1], to[2] = level(r), level(g), level(b)
		}
	}
	return out
}

func (m RGB) resampleColumns(height int, windows []window) RGB {
	line := m.Width * 3
	out := New(m.Width, height)
	sums := make([]int32, line)
	for y, w := range windows {
		for i := range sums {
			sums[i] = 1 << (precision - 1)
		}
		for k, weight := range fixed(w.weights) {
			for i, v := range m.Pix[(w.first+k)*line : (w.first+k+1)*line] {
				sums[i] += int32(v) * weight
			}
		}
		to := out.Pix[y*line:]
		for i, v := range sums {
			to[i] = level(v)
		}
	}
	return out
}
