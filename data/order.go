package data

import (
	"fmt"
	"math"

	"fewstep/data/bucket"
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

	// Images sorted into shapes, for batches of one shape; nil = they are of one shape.
	Shape  []int16 // of each row, −1 = the row is left out
	Shapes int     // how many there are
	Batch  int     // samples in a row that are of one shape
}

// Order maps a sample count to a row and a caption. It holds no position: sample
// k is the same whatever the number of devices or the point of restart, and,
// where images are not sorted into shapes, whatever the batch size.
//
// An epoch draws Len samples, the sum of the weights: see shuffle.Weighted. With
// shapes it is of full batches of one shape each: see bucket.Order.
type Order struct {
	set        *Set
	seed       uint64
	fine, kind float64 // upper bounds of the cumulative caption choice
	rows       *shuffle.Weighted
	buckets    *bucket.Order // nil = images are of one shape
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
	var weight func(i int) float64
	if !opt.Unweighted && s.weighted() {
		weight = func(i int) float64 { return float64(s.Row(i).Weight) }
	}
	var err error
	if opt.Shape != nil {
		o.buckets, err = bucket.NewOrder(opt.Shape, opt.Shapes, opt.Batch, opt.Seed, weight)
	} else {
		o.rows, err = shuffle.NewWeighted(s.Len(), weight)
	}
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return o, nil
}

// Len returns the number of samples in an epoch.
func (o *Order) Len() int64 {
	if o.buckets != nil {
		return o.buckets.Len()
	}
	return o.rows.Len()
}

// Unused counts the rows of shapes that never fill a batch.
func (o *Order) Unused() int {
	if o.buckets != nil {
		return o.buckets.Unused()
	}
	return 0
}

// Purposes keep the random choices of one sample independent.
const (
	purposePermute = 1 + iota
	purposeOffset
	purposeCaption
	purposeAlso
	purposeInstead
)

// Row returns the row of sample k ≥ 0.
func (o *Order) Row(k int64) int {
	if o.buckets != nil {
		return o.buckets.Row(k)
	}
	epoch, at := uint64(k/o.rows.Len()), k%o.rows.Len()
	return o.rows.Row(at, shuffle.Key(o.seed, purposePermute, epoch), shuffle.Key(o.seed, purposeOffset, epoch))
}

// Shape returns the number of the shape of sample k ≥ 0, and of its whole batch.
func (o *Order) Shape(k int64) int {
	if o.buckets != nil {
		return o.buckets.Shape(k)
	}
	return 0
}

// Shapes lists the numbers of the shapes of the samples from first to before end, in the order in which they come.
func (o *Order) Shapes(first, end int64) []int {
	if o.buckets != nil {
		return o.buckets.Shapes(first, end)
	}
	return []int{0}
}

// Instead returns the row to take for sample k where those of Row and of the attempts from 1 on before this one cannot be
// used: a function of these numbers, as Row is.
func (o *Order) Instead(k int64, attempt int) int {
	if o.buckets != nil {
		return o.buckets.Instead(k, attempt)
	}
	key := shuffle.Key(shuffle.Key(o.seed, purposeInstead, uint64(k)), purposeInstead, uint64(attempt))
	return o.rows.Row(int64(key%uint64(o.rows.Len())), key, key)
}

// Caption returns the caption of sample k ≥ 0 for its row.
func (o *Order) Caption(k int64) string { return o.CaptionOf(k, o.Row(k)) }

// CaptionOf returns sample k's caption of a row: fine, kind or coarse by the
// options' probabilities, and of a list of fine captions each as often.
func (o *Order) CaptionOf(k int64, number int) string {
	row := o.set.Row(number)
	fine := row.Caption
	if n := uint64(len(row.Also)); n > 0 {
		if i := shuffle.Key(o.seed, purposeAlso, uint64(k)) % (n + 1); i > 0 {
			fine = row.Also[i-1]
		}
	}
	u := shuffle.Unit(shuffle.Key(o.seed, purposeCaption, uint64(k)))
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
