package weights

import (
	"math"
	"sync"
)

// f16Bits rounds x to IEEE 754 binary16, nearest with ties to even. Beyond
// 65519.99… it gives infinity; a NaN stays a quiet NaN.
func f16Bits(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(b>>13)&0x1ff
	case b >= 0x477ff000: // 65520 and above, infinity
		return sign | 0x7c00
	case b >= 0x38800000: // 2^-14 and above: normal
		b += 0xfff + b>>13&1
		return sign | uint16((b-0x38000000)>>13)
	case b < 0x33000000: // below 2^-25, half the smallest subnormal
		return sign
	}
	// Subnormal: the value is an integer number of 2^-24.
	shift := 126 - b>>23 // 14 … 24
	mantissa := b&0x7fffff | 0x800000
	half := uint32(1) << (shift - 1)
	q := mantissa >> shift
	rest := mantissa & (1<<shift - 1)
	if rest > half || rest == half && q&1 == 1 {
		q++
	}
	return sign | uint16(q)
}

// f16Value is the exact value of binary16 bits.
func f16Value(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent := uint32(h>>10) & 0x1f
	mantissa := uint32(h & 0x3ff)
	switch exponent {
	case 0:
		v := float32(mantissa) * 0x1p-24
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | mantissa<<13)
}

// bf16Bits rounds x to bfloat16, nearest with ties to even; a NaN stays a quiet NaN.
func bf16Bits(x float32) uint16 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

func bf16Value(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// f8e4m3Value is the exact value of an OCP E4M3 byte: bias 7, no infinities,
// S.1111.111 is NaN.
func f8e4m3Value(b byte) float32 {
	exponent, mantissa := int(b>>3)&0xf, float64(b&7)
	var v float64
	switch {
	case b&0x7f == 0x7f:
		v = math.NaN()
	case exponent == 0:
		v = math.Ldexp(mantissa, -9)
	default:
		v = math.Ldexp(8+mantissa, exponent-10)
	}
	if b&0x80 != 0 {
		v = math.Copysign(v, -1)
	}
	return float32(v)
}

// f8e5m2Value is the exact value of an OCP E5M2 byte, the upper half of a binary16.
func f8e5m2Value(b byte) float32 { return f16Value(uint16(b) << 8) }

var f16Table = sync.OnceValue(func() *[1 << 16]float32 {
	table := new([1 << 16]float32)
	for i := range table {
		table[i] = f16Value(uint16(i))
	}
	return table
})
