package bucket

import (
	"fmt"
	"slices"
	"sort"

	"fewstep/data/shuffle"
)

// Order gives the rows of each batch, all of one shape, as a function of the batch's number alone: it is the same for any
// number of devices, and after any restart.
//
// An epoch has as many full batches of every shape as its rows make. Which rows are left over is drawn anew in each epoch,
// and so is the order of the batches.
type Order struct {
	rows    [][]int32 // of each shape, ascending
	batches []int64   // running sum of the full batches of each shape
	size    int
	seed    uint64
}

// NewOrder makes the order of batches of a size. shape gives each row's shape, −1 = left out.
func NewOrder(shape []int, shapes, size int, seed uint64) (*Order, error) {
	o := &Order{rows: make([][]int32, shapes), batches: make([]int64, shapes), size: size, seed: seed}
	if size < 1 {
		return nil, fmt.Errorf("bucket: batches of %d", size)
	}
	for row, s := range shape {
		if s < -1 || s >= shapes {
			return nil, fmt.Errorf("bucket: row %d is of shape %d of %d", row, s, shapes)
		}
		if s >= 0 {
			o.rows[s] = append(o.rows[s], int32(row))
		}
	}
	var sum int64
	for s, rows := range o.rows {
		sum += int64(len(rows) / size)
		o.batches[s] = sum
	}
	if sum == 0 {
		return nil, fmt.Errorf("bucket: no shape has the %d rows of a batch; use a smaller batch or fewer shapes", size)
	}
	return o, nil
}

// Len is the number of batches of an epoch.
func (o *Order) Len() int64 { return o.batches[len(o.batches)-1] }

// Unused counts the rows of shapes that never fill a batch.
func (o *Order) Unused() (n int) {
	for _, rows := range o.rows {
		if len(rows) < o.size {
			n += len(rows)
		}
	}
	return n
}

// Purposes of keys.
const (
	purposeBatches = 101
	purposeRows    = 102
)

// Batch gives the shape and the rows of batch number n ≥ 0.
func (o *Order) Batch(n int64) (shape int, rows []int) {
	epoch := uint64(n / o.Len())
	at := int64(shuffle.Permute(uint64(n%o.Len()), uint64(o.Len()), shuffle.Key(o.seed, purposeBatches, epoch)))
	shape = sort.Search(len(o.batches), func(i int) bool { return o.batches[i] > at })
	if shape > 0 {
		at -= o.batches[shape-1]
	}
	all := o.rows[shape]
	key := shuffle.Key(o.seed, purposeRows, epoch*uint64(len(o.rows))+uint64(shape))
	for i := range o.size {
		k := shuffle.Permute(uint64(at)*uint64(o.size)+uint64(i), uint64(len(all)), key)
		rows = append(rows, int(all[k]))
	}
	return shape, rows
}

// Counts gives the number of rows of each shape.
func (o *Order) Counts() (out []int) {
	for _, rows := range o.rows {
		out = append(out, len(rows))
	}
	return slices.Clip(out)
}
