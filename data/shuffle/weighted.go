package shuffle

import (
	"errors"
	"fmt"
	"math"
	"sort"
)

// Weighted draws numbered rows so often as their weights say. An epoch has as many draws as the weights add up to; row r is
// drawn ⌊w⌋ or ⌈w⌉ times in it, w on average (systematic sampling with an offset per epoch), in the order of a permutation.
type Weighted struct {
	rows   int
	until  []float64 // running sum of the weights; nil = all are 1
	total  float64   // of the weights
	length int64
}

// NewWeighted is for rows 0 … n−1; weight nil = all are 1.
func NewWeighted(n int, weight func(i int) float64) (*Weighted, error) {
	w := &Weighted{rows: n, total: float64(n)}
	if weight != nil {
		w.total, w.until = 0, make([]float64, n)
		for i := range w.until {
			w.total += weight(i)
			w.until[i] = w.total
		}
	}
	if !(w.total > 0) {
		return nil, errors.New("all weights are 0; no row can be drawn")
	}
	if w.total > 1<<40 {
		return nil, fmt.Errorf("weights add up to %g, more than an epoch can draw", w.total)
	}
	w.length = max(1, int64(math.Round(w.total)))
	return w, nil
}

// Len is the number of draws of an epoch.
func (w *Weighted) Len() int64 { return w.length }

// Row is the row of an epoch's draw number at; the keys are those of the epoch's permutation and of its offset.
func (w *Weighted) Row(at int64, permutation, offset uint64) int {
	slot := Permute(uint64(at), uint64(w.length), permutation)
	position := (float64(slot) + Unit(offset)) / float64(w.length) * w.total
	if w.until == nil {
		return min(int(position), w.rows-1)
	}
	row := sort.Search(len(w.until), func(i int) bool { return w.until[i] > position })
	row = min(row, len(w.until)-1)
	for row > 0 && w.until[row] == w.until[row-1] { // rounding may step onto weight 0
		row--
	}
	return row
}

// Unit maps 64 random bits to [0, 1).
func Unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }
