package data

import (
	"errors"
	"fmt"
	"math"
	"sort"

	"fewstep/data/shuffle"
)

// OrderOptions says in which order rows are drawn and which of their captions
// each sample gets.
type OrderOptions struct {
	Seed uint64
	// Relative probabilities of the three caption levels. All zero means the
	// fine caption always. An empty kind falls back to the coarse caption, an
	// empty coarse caption to the fine one.
	Fine, Kind, Coarse float64
	Unweighted         bool // draw every row once per epoch, whatever its weight
}

// Order maps a sample count to a row and a caption. It holds no position: sample
// k is the same whatever the batch size, the number of devices or the point of
// restart.
//
// An epoch draws Len samples, the sum of the weights. Row r is drawn ⌊w⌋ or ⌈w⌉
// times, w on average (systematic sampling with an offset per epoch), in the
// order of a permutation keyed by seed and epoch.
type Order struct {
	set        *Set
	seed       uint64
	fine, kind float64   // upper bounds of the cumulative caption choice
	until      []float64 // running sum of the weights; nil = all are 1
	total      float64   // of the weights
	length     int64
}

// Order returns the reproducible order of the set's rows.
func (s *Set) Order(opt OrderOptions) (*Order, error) {
	total := opt.Fine + opt.Kind + opt.Coarse
	if opt.Fine < 0 || opt.Kind < 0 || opt.Coarse < 0 || math.IsNaN(total) || math.IsInf(total, 0) {
		return nil, fmt.Errorf("data: caption probabilities %g, %g, %g; want finite numbers of at least 0", opt.Fine, opt.Kind, opt.Coarse)
	}
	o := &Order{set: s, seed: opt.Seed, fine: 1, kind: 1}
	if total > 0 {
		o.fine, o.kind = opt.Fine/total, (opt.Fine+opt.Kind)/total
	}
	sum := float64(s.Len())
	if !opt.Unweighted && s.weighted() {
		sum, o.until = 0, make([]float64, s.Len())
		for i := range o.until {
			sum += float64(s.Row(i).Weight)
			o.until[i] = sum
		}
	}
	o.total = sum
	if sum <= 0 {
		return nil, errors.New("data: all weights are 0; no row can be drawn")
	}
	if sum > 1<<40 {
		return nil, fmt.Errorf("data: weights add up to %g, more than an epoch can draw", sum)
	}
	o.length = max(1, int64(math.Round(sum)))
	return o, nil
}

// Len returns the number of samples in an epoch.
func (o *Order) Len() int64 { return o.length }

// Purposes keep the random choices of one sample independent.
const (
	purposePermute = 1 + iota
	purposeOffset
	purposeCaption
	purposeAlso
)

// unit maps 64 random bits to [0, 1).
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// Row returns the row of sample k ≥ 0.
func (o *Order) Row(k int64) int {
	epoch, at := uint64(k/o.length), uint64(k%o.length)
	slot := shuffle.Permute(at, uint64(o.length), shuffle.Key(o.seed, purposePermute, epoch))
	offset := unit(shuffle.Key(o.seed, purposeOffset, epoch))
	position := (float64(slot) + offset) / float64(o.length) * o.total
	if o.until == nil {
		return min(int(position), o.set.Len()-1)
	}
	row := sort.Search(len(o.until), func(i int) bool { return o.until[i] > position })
	row = min(row, len(o.until)-1)
	for row > 0 && o.until[row] == o.until[row-1] { // rounding may step onto weight 0
		row--
	}
	return row
}

// Caption returns the caption of sample k ≥ 0: fine, kind or coarse by the
// options' probabilities, and of a list of fine captions each as often.
func (o *Order) Caption(k int64) string {
	row := o.set.Row(o.Row(k))
	fine := row.Caption
	if n := uint64(len(row.Also)); n > 0 {
		if i := shuffle.Key(o.seed, purposeAlso, uint64(k)) % (n + 1); i > 0 {
			fine = row.Also[i-1]
		}
	}
	u := unit(shuffle.Key(o.seed, purposeCaption, uint64(k)))
	switch {
	case u < o.fine:
		return fine
	case u < o.kind && row.Kind != "":
		return row.Kind
	case row.Coarse != "":
		return row.Coarse
	default:
		return fine
	}
}
