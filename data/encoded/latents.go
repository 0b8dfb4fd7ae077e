package encoded

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/feed"
	"fewstep/model/weights"

	"golang.org/x/sync/errgroup"
)

// picture is a decoded row of a shard.
type picture struct {
	row    int // in the shard
	pixels []float32
	fit    bucket.Fit
	bad    string // why there is no picture
}

// encoding is a shard while it is made.
type encoding struct {
	number  int // of the shard
	rows    int
	bad     map[int]string
	sizes   []bucket.Size // of the images; zero = bad
	shapes  map[bucket.Size]*ofShape
	pending int
}

// ofShape is what a shard has of one shape.
type ofShape struct {
	waits            []picture
	rows             []int
	mean, deviations []float32
}

// makeLatents makes shards: pictures are read and decoded ahead on all cores, in the order of the rows, while the device
// encodes those before, while the shard before is written. done is told of each shard, in order, by one goroutine.
func (s *Settings) makeLatents(ctx context.Context, set *data.Set, shards []int, path func(n int) string, r *Report, done func(n int, bad map[int]string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	made := make(chan *encoding, 1)
	group.Go(func() error {
		defer close(made)
		pictures := s.ahead(ctx, set, shards)
		defer pictures.Close()
		for i, n := range shards {
			rows := min((n+1)*PerShard, set.Len()) - n*PerShard
			e := &encoding{n, rows, map[int]string{}, make([]bucket.Size, rows), map[bucket.Size]*ofShape{}, 0}
			for k := range rows {
				waited := time.Now()
				p, err := pictures.Take(int64(i*PerShard + k))
				r.Waiting += time.Since(waited)
				if err == nil {
					err = s.encode(e, p, r)
				}
				if err != nil {
					return fmt.Errorf("rows from %d on: %w", n*PerShard, err)
				}
			}
			for _, shape := range s.Shapes {
				if err := s.flush(e, shape, r); err != nil {
					return fmt.Errorf("rows from %d on: %w", n*PerShard, err)
				}
			}
			waited := time.Now()
			select {
			case made <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
			r.Waiting += time.Since(waited)
		}
		return nil
	})
	group.Go(func() error {
		for e := range made {
			if err := s.save(e, path(e.number)); err != nil {
				return err
			}
			if err := done(e.number, e.bad); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// ahead reads and decodes the rows of shards, which are numbered from 0 on: as many at a time as the source bears, and two
// batches more than that which the device has not taken.
func (s *Settings) ahead(ctx context.Context, set *data.Set, shards []int) *feed.Ahead[picture] {
	readers := set.Readers()
	return &feed.Ahead[picture]{
		Workers: readers, Most: readers + 2*s.Batch,
		Next: func(k int64) int64 { return k + 1 },
		Make: func(k int64) (picture, error) {
			if err := ctx.Err(); err != nil || int(k) >= len(shards)*PerShard {
				return picture{}, err
			}
			n, row := shards[k/PerShard], int(k%PerShard)
			if n*PerShard+row >= set.Len() {
				return picture{}, nil
			}
			return s.picture(set, n*PerShard+row, row)
		},
	}
}

// picture decodes a row of the set. A file that cannot be read is an error, an image that cannot be decoded not.
func (s *Settings) picture(set *data.Set, i, row int) (p picture, err error) {
	p.row = row
	content, err := set.Encoded(i)
	if err == nil {
		p.pixels, p.fit, err = data.Fitted(content, func(image bucket.Size) bucket.Size { return s.Shapes[bucket.Choose(image, s.Shapes)] })
	} else if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if err != nil {
		p.bad = err.Error()
	}
	return p, nil
}

// encode takes a picture. Pictures wait until a shape has a batch of them, or many wait, or the shard ends: which ones go
// through the device together follows from the rows alone.
func (s *Settings) encode(e *encoding, p picture, r *Report) error {
	if p.bad != "" {
		e.bad[p.row] = p.bad
		return nil
	}
	e.sizes[p.row] = p.fit.Original
	x := e.shapes[p.fit.Target]
	if x == nil {
		x = &ofShape{}
		e.shapes[p.fit.Target] = x
	}
	x.waits = append(x.waits, p)
	if e.pending++; len(x.waits) == s.Batch {
		return s.flush(e, p.fit.Target, r)
	} else if e.pending >= 4*s.Batch {
		return s.flush(e, s.fullest(e), r)
	}
	return nil
}

// fullest is the shape of which most pictures wait.
func (s *Settings) fullest(e *encoding) (shape bucket.Size) {
	most := 0
	for _, candidate := range s.Shapes {
		if x := e.shapes[candidate]; x != nil && len(x.waits) > most {
			shape, most = candidate, len(x.waits)
		}
	}
	return shape
}

// flush encodes the pictures that wait of a shape.
func (s *Settings) flush(e *encoding, shape bucket.Size, r *Report) error {
	x := e.shapes[shape]
	if x == nil || len(x.waits) == 0 {
		return nil
	}
	var pixels [][]float32
	for _, p := range x.waits {
		pixels, x.rows = append(pixels, p.pixels), append(x.rows, p.row)
	}
	began := time.Now()
	mean, deviations, err := s.Images(pixels, shape)
	r.Encoding += time.Since(began)
	if err != nil {
		return err
	}
	r.Images += len(pixels)
	size := s.latentSize(shape)
	for i := range pixels {
		if len(mean[i]) != size || s.Deviations && len(deviations[i]) != size {
			return fmt.Errorf("row %d: %d values of latents, want %d", x.waits[i].row, len(mean[i]), size)
		}
		x.mean = append(x.mean, mean[i]...)
		if s.Deviations {
			x.deviations = append(x.deviations, deviations[i]...)
		}
	}
	e.pending -= len(x.waits)
	x.waits = x.waits[:0]
	return nil
}

func (s *Settings) latentSize(shape bucket.Size) int {
	return shape.Width / s.Factor * (shape.Height / s.Factor) * s.Channels
}

// save writes a shard.
func (s *Settings) save(e *encoding, path string) error {
	list, err := json.Marshal(e.bad)
	if err != nil {
		return err
	}
	var sizes []int
	for _, size := range e.sizes {
		sizes = append(sizes, size.Width, size.Height)
	}
	tensors := []weights.Tensor{integers(sizesName, sizes, e.rows, 2)}
	for _, shape := range s.Shapes {
		x := e.shapes[shape]
		if x == nil {
			continue
		}
		dims := []int{len(x.rows), shape.Height / s.Factor, shape.Width / s.Factor, s.Channels}
		tensors = append(tensors, integers(of(rowsName, shape), x.rows, len(x.rows)), weights.FromFloat32(of(latentsName, shape), dims, x.mean, weights.BF16))
		if s.Deviations {
			tensors = append(tensors, weights.FromFloat32(of(deviationsName, shape), dims, x.deviations, weights.BF16))
		}
	}
	first := e.number * PerShard
	return weights.Save(path, tensors, weights.Options{Finite: true, Metadata: map[string]string{
		"bad": string(list), "source": s.Source, "rows": fmt.Sprintf("%d to %d", first, first+e.rows-1), "vae": s.VAE}})
}

func integers(name string, v []int, dims ...int) weights.Tensor {
	b := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(x))
	}
	return weights.Tensor{Name: name, DType: weights.I32, Shape: dims, Data: b}
}
