package bucket

import (
	"fmt"
	"slices"
	"sort"

	"fewstep/data/shuffle"
)

// Order gives the row of each sample so that a batch is of one shape. It is a function of the sample's number alone: the
// same for any number of devices, and after any restart.
//
// An epoch has as many full batches of every shape as its rows make. Which rows are left over is drawn anew in each epoch,
// and so is the order of the batches.
type Order struct {
	shapes  []drawn
	batches []int64 // running sum of the full batches of each shape
	size    int64
	seed    uint64
}

// drawn is how a shape's rows are drawn; by is nil where it has none.
type drawn struct {
	rows []int32 // ascending
	by   *shuffle.Weighted
}

// NewOrder makes the order of samples in batches of a size. shape gives each row's shape, −1 = left out; weight is the
// expected number of a row's draws per epoch, nil = 1 each.
func NewOrder(shape []int16, shapes, size int, seed uint64, weight func(row int) float64) (*Order, error) {
	o := &Order{shapes: make([]drawn, shapes), batches: make([]int64, shapes), size: int64(size), seed: seed}
	if size < 1 {
		return nil, fmt.Errorf("bucket: batches of %d", size)
	}
	for row, s := range shape {
		if s < -1 || int(s) >= shapes {
			return nil, fmt.Errorf("bucket: row %d is of shape %d of %d", row, s, shapes)
		}
		if s >= 0 && (weight == nil || weight(row) > 0) {
			o.shapes[s].rows = append(o.shapes[s].rows, int32(row))
		}
	}
	var sum int64
	for s := range o.shapes {
		d := &o.shapes[s]
		if len(d.rows) > 0 {
			var of func(i int) float64
			if weight != nil {
				of = func(i int) float64 { return weight(int(d.rows[i])) }
			}
			var err error
			if d.by, err = shuffle.NewWeighted(len(d.rows), of); err != nil {
				return nil, fmt.Errorf("bucket: %w", err)
			}
			sum += d.by.Len() / o.size
		}
		o.batches[s] = sum
	}
	if sum == 0 {
		return nil, fmt.Errorf("bucket: no shape has the %d rows of a batch; use a smaller batch or fewer shapes", size)
	}
	return o, nil
}

// Len is the number of samples of an epoch.
func (o *Order) Len() int64 { return o.batches[len(o.batches)-1] * o.size }

// Unused counts the rows of shapes that never fill a batch.
func (o *Order) Unused() (n int) {
	for _, d := range o.shapes {
		if d.by != nil && d.by.Len() < o.size {
			n += len(d.rows)
		}
	}
	return n
}

// Purposes of keys.
const (
	purposeBatches = 101
	purposeRows    = 102
	purposeOffset  = 103
	purposeInstead = 104
)

// at says of a sample its shape, and its number among the shape's draws of an epoch.
func (o *Order) at(k int64) (shape int, epoch uint64, draw int64) {
	n, all := k/o.size, o.Len()/o.size
	epoch = uint64(n / all)
	batch := int64(shuffle.Permute(uint64(n%all), uint64(all), shuffle.Key(o.seed, purposeBatches, epoch)))
	shape = sort.Search(len(o.batches), func(i int) bool { return o.batches[i] > batch })
	if shape > 0 {
		batch -= o.batches[shape-1]
	}
	return shape, epoch, batch*o.size + k%o.size
}

// Shape is the shape of sample k ≥ 0, and of its whole batch.
func (o *Order) Shape(k int64) int {
	shape, _, _ := o.at(k)
	return shape
}

// Shapes lists the shapes of the samples from first to before end, in the order in which they come.
func (o *Order) Shapes(first, end int64) (shapes []int) {
	full := 0 // shapes that make a batch
	for i, n := range o.batches {
		if i == 0 && n > 0 || i > 0 && n > o.batches[i-1] {
			full++
		}
	}
	for k := first; k < end && len(shapes) < full; k += o.size {
		if s := o.Shape(k); !slices.Contains(shapes, s) {
			shapes = append(shapes, s)
		}
	}
	return shapes
}

// Row is the row of sample k ≥ 0.
func (o *Order) Row(k int64) int {
	shape, epoch, draw := o.at(k)
	number := epoch*uint64(len(o.shapes)) + uint64(shape)
	d := o.shapes[shape]
	return int(d.rows[d.by.Row(draw, shuffle.Key(o.seed, purposeRows, number), shuffle.Key(o.seed, purposeOffset, number))])
}

// Instead is the row to take for sample k where those of Row and of the attempts before cannot be used: another of its shape.
func (o *Order) Instead(k int64, attempt int) int {
	rows := o.shapes[o.Shape(k)].rows
	return int(rows[shuffle.Key(shuffle.Key(o.seed, purposeInstead, uint64(k)), purposeInstead, uint64(attempt))%uint64(len(rows))])
}

// Counts gives the number of rows of each shape.
func (o *Order) Counts() (out []int) {
	for _, d := range o.shapes {
		out = append(out, len(d.rows))
	}
	return out
}
