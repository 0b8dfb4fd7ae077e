package images

import (
	"encoding/binary"
	"math"
	"slices"
)

// toSRGB converts pixels from the colours of an ICC profile to sRGB, in place. Profiles of the matrix kind (three tone
// curves and primaries, as cameras, phones and screens have) and grey curves are converted; tables (printers') and
// profiles that cannot be read leave the pixels as they are, as Pillow's convert("RGB") does.
func toSRGB(m RGB, profile []byte) {
	p := parseProfile(profile)
	if p == nil || p.isSRGB() {
		return
	}
	for i := 0; i+2 < len(m.Pix); i += 3 {
		p.convert(m.Pix[i : i+3 : i+3])
	}
}

// profile is a device's colours: light = curve[value] of each channel, then a matrix to linear sRGB.
type profile struct {
	curves [3][256]float64
	matrix [3][3]float64
}

// XYZ of the D50 white to linear sRGB, from the sRGB profile's primaries (IEC 61966-2-1, adapted with Bradford).
var fromXYZ = invert([3][3]float64{
	{0.4360747, 0.3850649, 0.1430804},
	{0.2225045, 0.7168786, 0.0606169},
	{0.0139322, 0.0971045, 0.7141733},
})

func parseProfile(b []byte) *profile {
	if len(b) < 132 || string(b[36:40]) != "acsp" || string(b[20:24]) != "XYZ " {
		return nil
	}
	tags := map[string][]byte{}
	n := int(binary.BigEndian.Uint32(b[128:]))
	for i := range min(n, 100) {
		at := 132 + 12*i
		if at+12 > len(b) {
			return nil
		}
		from, size := int(binary.BigEndian.Uint32(b[at+4:])), int(binary.BigEndian.Uint32(b[at+8:]))
		if from > len(b) || size > len(b)-from {
			return nil
		}
		tags[string(b[at:at+4])] = b[from : from+size]
	}
	p := &profile{}
	switch string(b[16:20]) {
	case "GRAY":
		if !curve(tags["kTRC"], &p.curves[0]) {
			return nil
		}
		p.curves[1], p.curves[2] = p.curves[0], p.curves[0]
		for i := range 3 {
			p.matrix[i][i] = 1
		}
	case "RGB ":
		var primaries [3][3]float64
		for c, name := range []string{"r", "g", "b"} {
			xyz := tags[name+"XYZ"]
			if len(xyz) < 20 || !curve(tags[name+"TRC"], &p.curves[c]) {
				return nil
			}
			for k := range 3 {
				primaries[k][c] = fixed16(xyz[8+4*k:])
			}
		}
		p.matrix = multiply(fromXYZ, primaries)
	default:
		return nil
	}
	return p
}

func fixed16(b []byte) float64 { return float64(int32(binary.BigEndian.Uint32(b))) / 65536 }

// curve reads a tone curve: a gamma, a table, or one of ICC's parametric functions.
func curve(tag []byte, to *[256]float64) bool {
	if len(tag) < 12 {
		return false
	}
	var f func(x float64) float64
	switch string(tag[:4]) {
	case "curv":
		n := int(binary.BigEndian.Uint32(tag[8:]))
		if n > (len(tag)-12)/2 {
			return false
		}
		table := make([]float64, n)
		for i := range table {
			table[i] = float64(binary.BigEndian.Uint16(tag[12+2*i:]))
		}
		switch n {
		case 0:
			f = func(x float64) float64 { return x }
		case 1:
			f = func(x float64) float64 { return math.Pow(x, table[0]/256) }
		default:
			f = func(x float64) float64 {
				at := x * float64(n-1)
				low := min(int(at), n-2)
				return (table[low] + (table[low+1]-table[low])*(at-float64(low))) / 65535
			}
		}
	case "para":
		kind := int(binary.BigEndian.Uint16(tag[8:]))
		counts := []int{1, 3, 4, 5, 7}
		if kind >= len(counts) || len(tag) < 12+4*counts[kind] {
			return false
		}
		var v [7]float64 // g, a, b, c, d, e, f
		for i := range counts[kind] {
			v[i] = fixed16(tag[12+4*i:])
		}
		f = parametric(kind, v)
	default:
		return false
	}
	for i := range to {
		to[i] = f(float64(i) / 255)
		if math.IsNaN(to[i]) || math.IsInf(to[i], 0) {
			return false
		}
	}
	return true
}

// parametric is ICC.1 10.18's function of a kind.
func parametric(kind int, v [7]float64) func(x float64) float64 {
	g, a, b, c, d, e, f := v[0], v[1], v[2], v[3], v[4], v[5], v[6]
	power := func(x float64) float64 { return math.Pow(max(a*x+b, 0), g) }
	switch kind {
	case 0:
		return func(x float64) float64 { return math.Pow(x, g) }
	case 1, 2:
		return func(x float64) float64 {
			if a*x+b >= 0 {
				return power(x) + c
			}
			return c
		}
	}
	return func(x float64) float64 { // 3 and 4; e and f are 0 for 3
		if x >= d {
			return power(x) + e
		}
		return c*x + f
	}
}

// encoded is sRGB's value of linear light, for light in steps of 1/(len−1).
var encoded = encodeLight()

func encodeLight() []uint8 {
	out := make([]uint8, 1<<14+1)
	for i := range out {
		x := float64(i) / (1 << 14)
		if x <= 0.0031308 {
			x *= 12.92
		} else {
			x = 1.055*math.Pow(x, 1/2.4) - 0.055
		}
		out[i] = uint8(math.Round(255 * x))
	}
	return out
}

func (p *profile) convert(c []uint8) {
	r, g, b := p.curves[0][c[0]], p.curves[1][c[1]], p.curves[2][c[2]]
	for i, row := range p.matrix {
		v := min(max(row[0]*r+row[1]*g+row[2]*b, 0), 1)
		c[i] = encoded[int(v*(1<<14)+0.5)]
	}
}

// isSRGB says whether the profile leaves colours as they are, to one level.
func (p *profile) isSRGB() bool {
	levels := []uint8{0, 1, 8, 32, 64, 100, 128, 160, 200, 240, 255}
	for _, r := range levels {
		for _, g := range levels {
			for _, b := range levels {
				before := []uint8{r, g, b}
				after := slices.Clone(before)
				p.convert(after)
				for i := range after {
					if d := int(after[i]) - int(before[i]); d < -1 || d > 1 {
						return false
					}
				}
			}
		}
	}
	return true
}

func multiply(a, b [3][3]float64) (out [3][3]float64) {
	for i := range 3 {
		for j := range 3 {
			for k := range 3 {
				out[i][j] += a[i][k] * b[k][j]
			}
		}
	}
	return out
}

func invert(a [3][3]float64) (out [3][3]float64) {
	det := 0.0
	for i := range 3 {
		det += a[0][i] * (a[1][(i+1)%3]*a[2][(i+2)%3] - a[1][(i+2)%3]*a[2][(i+1)%3])
	}
	for i := range 3 {
		for j := range 3 {
			out[j][i] = (a[(i+1)%3][(j+1)%3]*a[(i+2)%3][(j+2)%3] - a[(i+1)%3][(j+2)%3]*a[(i+2)%3][(j+1)%3]) / det
		}
	}
	return out
}
