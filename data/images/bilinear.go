package images

// BilinearTorch is PyTorch's interpolate(mode="bilinear", align_corners=False) without antialiasing, as in
// pytorch-fid: four neighbours of each pixel's centre, however much smaller the result is.
func (m RGB) BilinearTorch(width, height int) Float {
	return m.bilinear(torchTaps(m.Width, width), torchTaps(m.Height, height))
}

// BilinearTF1 is TensorFlow 1's resize_bilinear(align_corners=False), as in torch-fidelity: its corner lies on the
// source's corner pixel, so the image moves by a fraction of a pixel.
func (m RGB) BilinearTF1(width, height int) Float {
	return m.bilinear(tf1Taps(m.Width, width), tf1Taps(m.Height, height))
}

// tap is a pair of neighbours and the weight of the second.
type tap struct {
	low, high int
	weight    float32
}

func torchTaps(from, to int) []tap {
	scale := float32(from) / float32(to)
	out := make([]tap, to)
	for i := range out {
		at := max(scale*(float32(i)+0.5)-0.5, 0)
		low := min(int(at), from-1)
		out[i] = tap{low, min(low+1, from-1), at - float32(low)}
	}
	return out
}

func tf1Taps(from, to int) []tap {
	scale := float32(float64(from) / float64(to))
	out := make([]tap, to)
	for i := range out {
		at := float32(i) * scale
		low := min(int(at), from-1)
		out[i] = tap{low, min(low+1, from-1), at - float32(low)}
	}
	return out
}

func (m RGB) bilinear(columns, rows []tap) Float {
	out := Float{len(columns), len(rows), make([]float32, len(columns)*len(rows)*3)}
	for y, r := range rows {
		top, bottom := m.Pix[r.low*m.Width*3:], m.Pix[r.high*m.Width*3:]
		to := out.Pix[y*len(columns)*3:]
		for x, c := range columns {
			for k := range 3 {
				a, b := float32(top[3*c.low+k]), float32(bottom[3*c.low+k])
				a += (float32(top[3*c.high+k]) - a) * c.weight
				b += (float32(bottom[3*c.high+k]) - b) * c.weight
				to[3*x+k] = a + (b-a)*r.weight
			}
		}
	}
	return out
}
