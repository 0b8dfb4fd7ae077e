package distill

import (
	"fmt"
	"hash/fnv"
	"math"
)

// Purpose separates the streams of random numbers that one seed gives. The
// values are part of the format of a run: never renumber them.
type Purpose uint32

const (
	Noise               Purpose = 1  // ε of a training sample
	Timestep            Purpose = 2  // which t of the student's timesteps
	Order               Purpose = 3  // order of the data set, per epoch
	Caption             Purpose = 4  // which caption of an image
	DiscriminatorNoise  Purpose = 5  // ε* added before the discriminator
	DiscriminatorLevels Purpose = 6  // t* of that noise
	EvalNoise           Purpose = 7  // starting noise of evaluation samples
	Init                Purpose = 8  // initial weights
	Dropout             Purpose = 9  // which samples have no text
	NoiseOffset         Purpose = 10 // constant per channel added to ε in base training
	Crop                Purpose = 11 // place of the square that is cut from an image in base training
	PenaltyNoise        Purpose = 12 // added to real samples by the discriminator's approximate R1
	Posterior           Purpose = 13 // of a sample's latents, drawn from what the VAE makes of its image
	GuidanceScale       Purpose = 16 // of the teacher in consistency distillation
)

// Philox4x32 is one block of Philox4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011): 128 random bits for a counter under a
// key, with no state.
func Philox4x32(counter [4]uint32, key [2]uint32) [4]uint32 {
	c0, c1, c2, c3 := philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1])
	return [4]uint32{c0, c1, c2, c3}
}

func philox(c0, c1, c2, c3, k0, k1 uint32) (uint32, uint32, uint32, uint32) {
	for range 10 {
		p0, p1 := uint64(c0)*0xD2511F53, uint64(c2)*0xCD9E8D57
		c0, c1, c2, c3 = uint32(p1>>32)^c1^k0, uint32(p1), uint32(p0>>32)^c3^k1, uint32(p0)
		k0 += 0x9E3779B9
		k1 += 0xBB67AE85
	}
	return c0, c1, c2, c3
}

// block returns the random block of a stream: the seed is the key; the sample
// index, the purpose and the block's number within the sample are the counter,
// so no two of them ever share bits.
func block(seed uint64, purpose Purpose, sample int64, number uint32) (uint32, uint32, uint32, uint32) {
	return philox(number, uint32(purpose), uint32(sample), uint32(uint64(sample)>>32), uint32(seed), uint32(seed>>32))
}

// Normal fills dst with independent standard normal numbers: element i depends
// on (seed, purpose, sample, i) alone. Box–Muller in float64, rounded to
// float32; the same bits on every architecture.
func Normal(dst []float32, seed uint64, purpose Purpose, sample int64) {
	number := uint32(0)
	for ; len(dst) >= 4; dst = dst[4:] {
		a, b, c, d := block(seed, purpose, sample, number)
		dst[0], dst[1] = boxMuller(a, b)
		dst[2], dst[3] = boxMuller(c, d)
		number++
	}
	if len(dst) > 0 {
		a, b, c, d := block(seed, purpose, sample, number)
		var last [4]float32
		last[0], last[1] = boxMuller(a, b)
		last[2], last[3] = boxMuller(c, d)
		copy(dst, last[:])
	}
}

// Uniform returns the number of element in [0, 1), with 53 random bits.
func Uniform(seed uint64, purpose Purpose, sample int64, element uint32) float64 {
	a, b, _, _ := block(seed, purpose, sample, element)
	return float64((uint64(a)<<32|uint64(b))>>11) / (1 << 53)
}

// Choice returns an index into weights with probability in proportion to them.
// Weights must be finite, not negative, and not all zero.
func Choice(weights []float64, seed uint64, purpose Purpose, sample int64, element uint32) (int, error) {
	total, last := 0.0, -1
	for i, w := range weights {
		if !(w >= 0) || math.IsInf(w, 0) {
			return 0, fmt.Errorf("weight %d is %g; weights must be finite and not negative", i, w)
		}
		total += w
		if w > 0 {
			last = i
		}
	}
	if last < 0 || math.IsInf(total, 0) {
		return 0, fmt.Errorf("the %d weights add up to %g; a positive sum is needed", len(weights), total)
	}
	u := Uniform(seed, purpose, sample, element) * total
	for i, w := range weights {
		if u < w {
			return i, nil
		}
		u -= w
	}
	return last, nil
}

// Pick returns one of n equally likely indices, 0 <= i < n; n must be positive.
func Pick(n int, seed uint64, purpose Purpose, sample int64, element uint32) int {
	return int(Uniform(seed, purpose, sample, element) * float64(n))
}

// NumberOf makes a sample number of a name, for random numbers that belong to no sample, such as a parameter's initial values: the
// name's FNV-1a hash without the sign.
func NumberOf(name string) int64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return int64(h.Sum64() >> 1)
}
