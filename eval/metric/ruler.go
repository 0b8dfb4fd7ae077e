package metric

import (
	"fmt"
	"math"

	"fewstep/eval/stats"

	"gonum.org/v1/gonum/mat"
)

// Principal axes of the two parts of a feature.
const (
	embeddingAxes = 32
	textureAxes   = 16
)

// Dims is the number of dimensions of the features that the distances compare.
const Dims = embeddingAxes + textureAxes

// Ruler is a set of real images to measure others against. It fixes the principal axes and the parts' scales.
type Ruler struct {
	whole, patch scale
}

// scale turns a View into a feature vector.
type scale struct {
	embedding, texture axes
	reference          *stats.Moments
}

// axes maps a part of a View to its scaled principal components.
type axes struct {
	mean  []float64
	basis *mat.Dense // [dims, k], columns already divided
}

// NewRuler measures the reference images. Few images make a coarse ruler: four times Dims are enough to trust.
func NewRuler(reference []Features) (*Ruler, error) {
	if len(reference) < 4*Dims {
		return nil, fmt.Errorf("%d reference images are too few for the Fréchet distances; give at least %d", len(reference), 4*Dims)
	}
	r := &Ruler{}
	for _, v := range []struct {
		scale *scale
		of    func(Features) View
	}{{&r.whole, wholeOf}, {&r.patch, patchOf}} {
		if err := v.scale.fit(views(reference, v.of)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func wholeOf(f Features) View { return f.Whole }
func patchOf(f Features) View { return f.Patch }

func views(all []Features, of func(Features) View) []View {
	out := make([]View, len(all))
	for i, f := range all {
		out[i] = of(f)
	}
	return out
}

func (s *scale) fit(reference []View) (err error) {
	embeddings, textures := make([][]float64, len(reference)), make([][]float64, len(reference))
	for i, v := range reference {
		embeddings[i], textures[i] = v.Embedding, v.Texture
	}
	if s.embedding, err = principal(embeddings, embeddingAxes, false); err != nil {
		return fmt.Errorf("embeddings of the reference images: %w", err)
	}
	if s.texture, err = principal(textures, textureAxes, true); err != nil {
		return fmt.Errorf("textures of the reference images: %w", err)
	}
	s.reference, err = stats.MomentsOf(s.vectors(reference))
	return err
}

// principal finds the k leading principal axes of x [n][dims], scaled to a total variance of 1: by one number, or,
// if whitened, each axis by its own.
func principal(x [][]float64, k int, whitened bool) (axes, error) {
	m, err := stats.MomentsOf(x)
	if err != nil {
		return axes{}, err
	}
	p := m.Dims()
	if p < k {
		return axes{}, fmt.Errorf("they have %d values, at least %d are needed", p, k)
	}
	var eigen mat.EigenSym
	if !eigen.Factorize(m.Covariance(), true) {
		return axes{}, fmt.Errorf("their principal axes cannot be found")
	}
	vectors := mat.NewDense(p, p, nil)
	eigen.VectorsTo(vectors)
	a, variances, total := axes{mean: m.Mean(), basis: mat.DenseCopyOf(vectors.Slice(0, p, p-k, p))}, eigen.Values(nil)[p-k:], 0.0 // ascending
	for _, v := range variances {
		total += v
	}
	if !(variances[0] > 1e-12*total) || !(total > 0) {
		return axes{}, fmt.Errorf("they vary along fewer than %d axes", k)
	}
	for j, v := range variances {
		divisor := math.Sqrt(total)
		if whitened {
			divisor = math.Sqrt(v * float64(k))
		}
		for i := range p {
			a.basis.Set(i, j, a.basis.At(i, j)/divisor)
		}
	}
	return a, nil
}

// project appends the components of v to x.
func (a axes) project(x, v []float64) []float64 {
	_, k := a.basis.Dims()
	for j := range k {
		sum := 0.0
		for i, e := range v {
			sum += (e - a.mean[i]) * a.basis.At(i, j)
		}
		x = append(x, sum)
	}
	return x
}

// vectors returns the features of views, [n][Dims].
func (s *scale) vectors(all []View) [][]float64 {
	out := make([][]float64, len(all))
	for i, v := range all {
		out[i] = s.texture.project(s.embedding.project(make([]float64, 0, Dims), v.Embedding), v.Texture)
	}
	return out
}

// Whole is the Fréchet distance of whole images from the reference; Resamples of 0 gives it without an interval.
func (r *Ruler) Whole(images []Features, opt stats.Resampling) (stats.Interval, error) {
	return r.whole.distance(views(images, wholeOf), opt)
}

// Patch is the same of central patches.
func (r *Ruler) Patch(images []Features, opt stats.Resampling) (stats.Interval, error) {
	return r.patch.distance(views(images, patchOf), opt)
}

// Diversity is how much images of one prompt differ, in the features of whole images (see [stats.Diversity]).
func (r *Ruler) Diversity(images []Features, prompts []string, opt stats.Resampling) (stats.Interval, error) {
	iv, err := stats.Diversity(r.whole.vectors(views(images, wholeOf)), prompts, r.whole.reference, opt)
	if opt.Resamples == 0 {
		iv.Low, iv.High = math.NaN(), math.NaN()
	}
	return iv, err
}

func (s *scale) distance(all []View, opt stats.Resampling) (stats.Interval, error) {
	return frechet(s.vectors(all), s.reference, opt)
}

// frechet is the distance of features [n][dims] from a reference, with an interval if resamples are asked for.
func frechet(x [][]float64, reference *stats.Moments, opt stats.Resampling) (stats.Interval, error) {
	if opt.Resamples > 0 {
		return stats.FrechetInterval(x, reference, opt)
	}
	m, err := stats.MomentsOf(x)
	if err != nil {
		return stats.Interval{}, err
	}
	d, err := stats.Frechet(m, reference)
	return stats.Interval{Value: d, Low: math.NaN(), High: math.NaN(), Samples: len(x)}, err
}
