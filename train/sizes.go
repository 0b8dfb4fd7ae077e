package train

import (
	"context"
	"errors"
	"fmt"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/feed"
	"fewstep/data/images"
	"fewstep/train/monitor"
)

// perSizes is how many images' sizes a record of the file of sizes holds.
const perSizes = 1024

// readSizes gives the size of each row's image, zero where it is no image: from the data set where that knows it, else from
// the head of every file, which is read once for all processes of a run.
func (s *loader) readSizes(ctx context.Context) ([]bucket.Size, error) {
	n := s.set.Len()
	out := make([]bucket.Size, n)
	if s.set.KnowsSizes() {
		for i := range out {
			var err error
			if out[i], err = s.set.Size(i); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	told := monitor.LogProgress(s.log, "reading sizes", "images", 0)
	x, err := s.encoded(ctx, fmt.Sprintf("sizes-decoder%d.f32", images.DecoderVersion), (n+perSizes-1)/perSizes, 2*perSizes, func(first, end int) ([][]float32, error) {
		records := make([][]float32, end-first)
		for i := range records {
			records[i] = make([]float32, 2*perSizes)
		}
		from, to := first*perSizes, min(end*perSizes, n)
		failed := make([]error, to-from)
		feed.On(s.set.Readers(), to-from, func(i int) {
			size, err := s.set.Size(from + i)
			var bad *data.BadImage
			if err != nil && !errors.As(err, &bad) {
				failed[i] = err
			}
			record := records[i/perSizes][i%perSizes*2:]
			record[0], record[1] = float32(size.Width), float32(size.Height)
		})
		told(to, n)
		s.Working("reading the sizes of images")
		return records, errors.Join(failed...)
	})
	if err != nil {
		return nil, err
	}
	defer x.close()
	record := make([]float32, 2*perSizes)
	for i := range out {
		if i%perSizes == 0 {
			if err := x.read(i/perSizes, record); err != nil {
				return nil, err
			}
		}
		at := record[i%perSizes*2:]
		out[i] = bucket.Size{Width: int(at[0]), Height: int(at[1])}
	}
	return out, nil
}

// sort puts every row into its shape, and tells which images are smaller than that.
func (s *loader) sort() error {
	c := s.Config.Data
	s.shape = make([]int16, s.set.Len())
	small, bad, example := 0, 0, ""
	for i, size := range s.sizes {
		if size.Width == 0 {
			s.shape[i] = -1
			bad++
			s.log.Warn("image left out", "key", s.set.Row(i).Key, "why", "its size cannot be read")
			continue
		}
		n := bucket.Choose(size, s.shapes)
		fit, err := bucket.FitTo(size, s.shapes[n])
		if err != nil {
			return err
		}
		s.shape[i] = int16(n)
		if fit.Enlarges() {
			small++
			example = fmt.Sprintf("%s of %v for %v", s.set.Row(i).Key, size, s.shapes[n])
			if c.Small == configs.SmallDrop {
				s.shape[i] = -1
			}
		}
	}
	if bad > c.MaxBad {
		return fmt.Errorf("%d images have no size that can be read, %d allowed; remove them or allow more (data.max_bad)", bad, c.MaxBad)
	}
	if small == s.set.Len()-bad && c.Small == configs.SmallDrop {
		return fmt.Errorf("every image is smaller than the shape that it is trained in, as %s, and data.small is drop; take a smaller data.resolution", example)
	}
	if small > 0 && c.Small == configs.SmallDrop {
		s.log.Warn("images that are smaller than the shape that they would be trained in are left out", "images", small, "of", s.set.Len(), "as", example)
	} else if small > 0 {
		s.log.Warn("images are enlarged to the shape that they are trained in; data.small: drop leaves them out", "images", small, "of", s.set.Len(), "as", example)
	}
	return nil
}

// tellEnlarged counts images that are enlarged where sizes are not known before.
func (s *loader) tellEnlarged(key string, fit bucket.Fit) {
	if !fit.Enlarges() {
		return
	}
	n := s.enlarged.Add(1)
	for m := n; m%10 == 0; m /= 10 {
		n = m / 10
	}
	if n == 1 { // the first, the tenth, the hundredth …
		s.log.Warn("images are enlarged to the shape that they are trained in; data.small: drop leaves them out",
			"samples so far", s.enlarged.Load(), "as", fmt.Sprintf("%s of %v for %v", key, fit.Original, fit.Target))
	}
}
