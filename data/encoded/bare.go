package encoded

import (
	"context"
	"errors"
	"time"

	"fewstep/data"
	"fewstep/data/bucket"
)

// Bare measures how many images a second the device encodes when it never waits: those of the set's first batch that have
// its most frequent shape, again and again, for so long. The first call, which compiles, does not count.
func Bare(ctx context.Context, set *data.Set, s Settings, long time.Duration) (float64, error) {
	e := &encoding{bad: map[int]string{}, shapes: map[bucket.Size]*ofShape{}}
	for i := range min(s.Batch, set.Len()) {
		p, err := s.picture(set, i, i)
		if err != nil {
			return 0, err
		} else if p.bad != "" {
			continue
		}
		if e.shapes[p.fit.Target] == nil {
			e.shapes[p.fit.Target] = &ofShape{}
		}
		e.shapes[p.fit.Target].waits = append(e.shapes[p.fit.Target].waits, p)
	}
	shape := s.fullest(e)
	x := e.shapes[shape]
	if x == nil {
		return 0, errors.New("none of the first images can be decoded")
	}
	var pixels [][]float32
	for len(pixels) < s.Batch {
		pixels = append(pixels, x.waits[len(pixels)%len(x.waits)].pixels)
	}
	var began time.Time
	for n := 0; ; n += len(pixels) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if took := time.Since(began); !began.IsZero() && took >= long {
			return float64(n) / took.Seconds(), nil
		}
		if _, _, err := s.Images(pixels, shape); err != nil {
			return 0, err
		}
		if began.IsZero() {
			began, n = time.Now(), -len(pixels)
		}
	}
}
