package scenes

// rng is a counter-based stream: its n-th number is a function of its key and n alone.
type rng struct{ key, n uint64 }

// stream returns the numbers of one sample for one purpose.
func stream(seed, sample, purpose uint64) *rng {
	const golden = 0x9e3779b97f4a7c15
	return &rng{key: mix(mix(mix(seed+golden)^sample*0xd1342543de82ef95+golden) ^ purpose*golden)}
}

// mix is the finaliser of SplitMix64, a bijection of 64-bit numbers.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (r *rng) bits() uint64 {
	r.n++
	return mix(r.key + r.n*0x9e3779b97f4a7c15)
}

// unit is uniform in [0, 1).
func (r *rng) unit() float64 { return float64(r.bits()>>11) / (1 << 53) }

// between is uniform in [a, b).
func (r *rng) between(a, b float64) float64 { return a + float64((b-a)*r.unit()) }

// below is uniform in 0 … n−1.
func (r *rng) below(n int) int { return int(r.unit() * float64(n)) }

// pick chooses an index with the given relative weights.
func (r *rng) pick(weights ...float64) int {
	var total float64
	for _, w := range weights {
		total += w
	}
	u := r.unit() * total
	for i, w := range weights {
		if u < w {
			return i
		}
		u -= w
	}
	return len(weights) - 1
}
