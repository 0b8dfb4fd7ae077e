package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"fewstep/train/rundir"
)

// Encodings that are made before training are dealt out over the processes of a run: of so many chunks of records as there are
// ranks each makes one, and rank 0, which alone changes the run directory, writes all.

// encodedByAll is encoded with the work of all ranks. A record is the same from whichever rank.
func (s *Setup) encodedByAll(ctx context.Context, name string, n, size int, fill func(first, end int) ([][]float32, error)) (*fileRecords, error) {
	if s.nodes() == 1 {
		return s.encoded(ctx, name, n, size, fill)
	}
	have := false
	if s.leads() {
		var err error
		if have, err = s.Dir.HasArtifact(rundir.Encoded, name); err != nil {
			return nil, err
		}
	}
	if err := s.hear("whether "+name+" is there", &have); err != nil {
		return nil, err
	}
	d := &dealt{ranks: s.ranks, name: name, n: n, size: size, make: fill}
	switch {
	case have:
	case s.leads():
		x, err := s.encoded(ctx, name, n, size, d.lead)
		if err != nil {
			return nil, err
		}
		d.first = n
		return x, d.next()
	default:
		if err := d.follow(); err != nil {
			return nil, err
		}
	}
	return s.encoded(ctx, name, n, size, fill)
}

// dealt is a file of records that all ranks make.
type dealt struct {
	*ranks
	name    string
	n, size int
	make    func(first, end int) ([][]float32, error)

	first int           // record of this round; n = there is none
	made  [][][]float32 // by rank, on rank 0
}

// next tells all ranks with which record the next round begins.
func (d *dealt) next() error { return d.hear("the next part of "+d.name, &d.first) }

// part are the records of a rank in this round.
func (d *dealt) part(rank int) (first, end int) {
	first = min(d.first+rank*chunk, d.n)
	return first, min(first+chunk, d.n)
}

// lead gives the records of a chunk on rank 0, with a round of all ranks where they are not made yet.
func (d *dealt) lead(first, end int) ([][]float32, error) {
	for rank := range d.made {
		if from, to := d.part(rank); from == first && to == end {
			return d.made[rank], nil
		}
	}
	d.first, d.made = first, nil
	if err := d.next(); err != nil {
		return nil, err
	}
	own, err := d.make(first, end)
	if err != nil {
		return nil, err
	}
	m := d.member
	all, err := m.Bring(m.Context(), "a part of "+d.name, nil)
	if err != nil {
		return nil, err
	}
	d.made = [][][]float32{own}
	for rank, raw := range all[1:] {
		from, to := d.part(rank + 1)
		if len(raw) != (to-from)*4*d.size {
			return nil, fmt.Errorf("%s: rank %d has made %d bytes of records %d to %d, and they have %d: the ranks do not do the same", d.name, rank+1, len(raw), from, to-1, (to-from)*4*d.size)
		}
		records := make([][]float32, to-from)
		for i := range records {
			records[i] = make([]float32, d.size)
			for k := range records[i] {
				records[i][k] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*(i*d.size+k):]))
			}
		}
		d.made = append(d.made, records)
	}
	return own, nil
}

// follow makes the parts of a rank that is not 0.
func (d *dealt) follow() error {
	m := d.member
	for {
		if err := d.next(); err != nil || d.first >= d.n {
			return err
		}
		var raw []byte
		if from, to := d.part(m.Rank()); from < to {
			records, err := d.make(from, to)
			if err != nil {
				return err
			}
			if raw, err = encodeRecords(d.name, records, from, d.size); err != nil {
				return err
			}
		}
		if _, err := m.Bring(m.Context(), "a part of "+d.name, raw); err != nil {
			return err
		}
	}
}
