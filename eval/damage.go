package eval

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// imageSource gives images by their row, [R·R·3] in [−1, 1] at a resolution R; a *data.Set is.
type imageSource interface {
	Image(row, resolution int) ([]float32, error)
}

// objects is an imageSource whose images can be drawn again with half of their objects left out. A data set that is drawn offers it;
// its error says where a picture cannot be.
type objects interface {
	WithoutHalf(row, resolution int) ([]float32, error)
}

// damage is what is done to real images, to see whether a metric notices.
type damage struct {
	Name string
	// change makes the damaged picture; nil leaves it as it is (the captions are exchanged).
	change func(p imageSource, row, resolution int) ([]float32, error)
	// seen are the metrics that must notice it.
	seen func(m string) bool
}

// damages of the acceptance test. Noise follows from the seed and the row.
func damages(seed uint64, distances, pixels, score func(metric string) bool) []damage {
	return []damage{
		{"blurred 3×3", func(p imageSource, row, resolution int) ([]float32, error) {
			v, err := p.Image(row, resolution)
			return blurred(v, resolution), err
		}, or(distances, pixels)},
		{"noise of 25 levels", func(p imageSource, row, resolution int) ([]float32, error) {
			v, err := p.Image(row, resolution)
			return noisy(v, 25, rand.New(rand.NewPCG(seed, uint64(row)))), err
		}, or(distances, pixels)},
		{"wrong captions", nil, score},
		{"half of the objects missing", func(p imageSource, row, resolution int) ([]float32, error) {
			o, ok := p.(objects)
			if !ok {
				return nil, errNoObjects
			}
			v, err := o.WithoutHalf(row, resolution)
			if err != nil {
				err = fmt.Errorf("%w: %w", errNoObjects, err)
			}
			return v, err
		}, or(distances, pixels, score)},
	}
}

// errNoObjects is the error of a data set that cannot leave objects out.
var errNoObjects = errors.New("this data set cannot draw its images without some of their objects")

func or(all ...func(string) bool) func(string) bool {
	return func(m string) bool {
		for _, f := range all {
			if f(m) {
				return true
			}
		}
		return false
	}
}

// changed are pictures with a damage.
type changed struct {
	imageSource
	by damage
}

func (c changed) Image(row, resolution int) ([]float32, error) {
	return c.by.change(c.imageSource, row, resolution)
}

// blurred is the mean of 3×3 pixels, edges repeated.
func blurred(v []float32, side int) []float32 {
	out := make([]float32, len(v))
	for i := range out {
		x, y, c := i/3%side, i/3/side, i%3
		var sum float32
		for dy := -1; dy <= 1; dy++ {
			for dx := -1; dx <= 1; dx++ {
				sum += v[(min(max(y+dy, 0), side-1)*side+min(max(x+dx, 0), side-1))*3+c]
			}
		}
		out[i] = sum / 9
	}
	return out
}

// noisy adds normal noise of a deviation in grey levels of 255.
func noisy(v []float32, levels float64, rng *rand.Rand) []float32 {
	out := make([]float32, len(v))
	for i := range out {
		out[i] = min(max(v[i]+float32(levels/127.5*rng.NormFloat64()), -1), 1)
	}
	return out
}

// wrongCaptions gives every image the caption of another, half the list away or the next that differs.
func wrongCaptions(captions []string) []string {
	n := len(captions)
	out := make([]string, n)
	for i := range out {
		out[i] = captions[i]
		for k := n / 2; k < n/2+n && out[i] == captions[i]; k++ {
			out[i] = captions[(i+k)%n]
		}
	}
	return out
}
