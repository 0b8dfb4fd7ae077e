// Package shuffle gives orders that are functions of a number: nothing is drawn, kept or restored.
package shuffle

import "math/bits"

// Key is 64 random bits of a seed, a purpose and a number.
func Key(seed, purpose, n uint64) uint64 {
	const golden = 0x9e3779b97f4a7c15
	x := Mix(seed + golden)
	x = Mix(x ^ purpose*0xd1342543de82ef95 + golden)
	return Mix(x ^ n*golden + golden)
}

// Permute is a keyed bijection of [0, n) without a table: a four-round Feistel
// network on the next even number of bits, walked until it falls below n.
func Permute(x, n, key uint64) uint64 {
	half := max(1, (bits.Len64(n-1)+1)/2)
	mask := uint64(1)<<half - 1
	for {
		left, right := x>>half, x&mask
		for round := range uint64(4) {
			left, right = right, left^(Mix(right^Mix(key+round))&mask)
		}
		x = left<<half | right
		if x < n {
			return x
		}
	}
}

// Mix is the finaliser of SplitMix64: a bijection of 64-bit numbers whose
// output bits all depend on all input bits.
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
