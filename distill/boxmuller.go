package distill

import "math"

// The functions here are exact to about 1e-11, far below float32's rounding.
// Every product is converted before it is added to, which forbids a fused
// multiply-add: all architectures give the same bits.

// boxMuller makes two standard normals of 64 random bits; the radius reaches
// 6.77.
func boxMuller(a, b uint32) (float32, float32) {
	radius := math.Sqrt(minusTwoLog(a))
	cos, sin := circle(b)
	return float32(radius * cos), float32(radius * sin)
}

// minusTwoLog returns −2·log((a + ½) / 2³²).
func minusTwoLog(a uint32) float64 {
	// a + ½ = m·2^e with m in [√½, √2), log m = 2·artanh((m − 1)/(m + 1)).
	const rootHalf = 0x3FE6A09E667F3BCD
	bits := math.Float64bits(float64(a) + 0.5)
	e := int64(bits-rootHalf) >> 52
	m := math.Float64frombits(bits - uint64(e)<<52)
	s := (m - 1) / (m + 1)
	z := s * s
	p := 1.0 / 15
	p = float64(p*z) + 1.0/13
	p = float64(p*z) + 1.0/11
	p = float64(p*z) + 1.0/9
	p = float64(p*z) + 1.0/7
	p = float64(p*z) + 1.0/5
	p = float64(p*z) + 1.0/3
	p = float64(p*z) + 1
	return float64(float64(32-e)*(2*math.Ln2)) - float64(4*s*p)
}

// circle returns the cosine and sine of the angle 2π·b / 2³².
func circle(b uint32) (cos, sin float64) {
	quarter := (b + 1<<29) >> 30 // nearest multiple of π/2, 0..3 (mod 4)
	x := float64(int32(b-quarter<<30)) * (2 * math.Pi / (1 << 32))
	z := x * x
	s := -1.0 / 39916800
	s = float64(s*z) + 1.0/362880
	s = float64(s*z) - 1.0/5040
	s = float64(s*z) + 1.0/120
	s = float64(s*z) - 1.0/6
	s = float64(s*z) + 1
	s *= x
	c := 1.0 / 479001600
	c = float64(c*z) - 1.0/3628800
	c = float64(c*z) + 1.0/40320
	c = float64(c*z) - 1.0/720
	c = float64(c*z) + 1.0/24
	c = float64(c*z) - 1.0/2
	c = float64(c*z) + 1
	q, r := quarterCos[quarter&3], quarterCos[(quarter+3)&3]
	return float64(q*c) - float64(r*s), float64(r*c) + float64(q*s)
}

// quarterCos is the cosine of multiples of π/2; the sine is one place behind.
var quarterCos = [4]float64{1, 0, -1, 0}
