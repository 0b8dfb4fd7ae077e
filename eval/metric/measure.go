package metric

import (
	"fmt"
	"math"

	"fewstep/eval/stats"
)

// Measure explains one metric.
type Measure struct {
	Name        string // says whether it is FID, or in which features it is
	Counterpart string // the metric of papers that it answers to; "" = none
	Higher      bool   // more is better
	Note        string
}

// Result is one number with its interval.
type Result struct {
	Name string
	stats.Interval
}

// kinds of measures, in the order of a table.
type kind int

const (
	frechetWhole kind = iota
	frechetPatch
	kernelWhole
	precision
	recall
	diversity
	score
)

// name is a metric's: FID, KID and CLIP score are only what is measured with the weights that define them.
func (m *Meter) name(k kind) string {
	r := m.extractor.Release
	patched := m.Standard.Patch != nil
	in := func(known, other string) string {
		if r.FID {
			return known
		}
		return fmt.Sprintf("%s(%s)", other, r.Name)
	}
	switch k {
	case frechetWhole:
		if patched {
			return in("FID", "FD") + "-Whole"
		}
		return in("FID", "FD")
	case frechetPatch:
		return in("FID", "FD") + "-Patch"
	case kernelWhole:
		return in("KID", "KD")
	case precision:
		return fmt.Sprintf("Precision(%s)", r.Name)
	case recall:
		return fmt.Sprintf("Recall(%s)", r.Name)
	case diversity:
		return fmt.Sprintf("%s(%s)", Diversity, r.Name)
	}
	if want := m.Standard.Score.SHA256; want != "" && want == m.scorer.SHA256 {
		return Score
	}
	return fmt.Sprintf("%s(%s)", Score, m.scorer.SHA256[:8])
}

// kinds lists what can be measured with the reference that is set.
func (m *Meter) kinds() (out []kind) {
	if m.whole.moments != nil {
		out = append(out, frechetWhole)
	}
	if m.patch.moments != nil {
		out = append(out, frechetPatch)
	}
	if m.whole.features != nil {
		out = append(out, kernelWhole, precision, recall)
	}
	if m.whole.moments != nil {
		out = append(out, diversity)
	}
	if m.scorer != nil {
		out = append(out, score)
	}
	return out
}

// Measures explains the metrics that Results gives, in its order.
func (m *Meter) Measures() (out []Measure) {
	for _, k := range m.kinds() {
		out = append(out, Measure{m.name(k), counterparts[k], k >= precision, m.note(k)})
	}
	return out
}

var counterparts = map[kind]string{frechetWhole: "FID-Whole", frechetPatch: "FID-Patch", score: "CLIP score"}

// Results measures images, of which image i was made for prompts[i]; captions are the prompts', by [Meter.Captions].
// What does not apply is left out: patches of images smaller than a patch, the diversity of prompts that were drawn
// once. Every value has its interval.
func (m *Meter) Results(made []Look, prompts []string, captions [][]float64, opt stats.Resampling) ([]Result, error) {
	if len(made) < leastImages {
		return nil, fmt.Errorf("%d images cannot be measured: give at least %d, and %d for numbers that can be compared", len(made), leastImages, Few)
	}
	if len(prompts) != len(made) || m.scorer != nil && len(captions) != len(made) {
		return nil, fmt.Errorf("%d images, %d prompts and %d embedded captions: each image needs its own", len(made), len(prompts), len(captions))
	}
	whole := wide(made, wholeLook)
	manifold := onceErr(func() (*stats.Manifold, error) { return stats.NewManifold(whole, manifoldNeighbours) })
	var covered stats.Interval
	var out []Result
	for _, k := range m.kinds() {
		var iv stats.Interval
		var err error
		if k == frechetPatch && !cropped(made) || k == diversity && !stats.Diverse(prompts) {
			continue
		}
		if m.Started != nil {
			m.Started(m.name(k))
		}
		switch k {
		case frechetWhole:
			iv, err = stats.FrechetInterval(whole, m.whole.moments, opt)
		case frechetPatch:
			iv, err = stats.FrechetInterval(wide(made, patchLook), m.patch.moments, opt)
		case kernelWhole:
			iv, err = stats.KernelDistance(whole, m.whole.features, stats.Subsets{}, opt)
		case precision:
			if m.whole.manifold == nil {
				if m.whole.manifold, err = stats.NewManifold(m.whole.features, manifoldNeighbours); err != nil {
					return nil, fmt.Errorf("real images: %w", err)
				}
			}
			var of *stats.Manifold
			if of, err = manifold(); err == nil {
				iv, covered, err = stats.PrecisionRecall(of, m.whole.manifold, opt)
			}
		case recall:
			iv = covered
		case diversity:
			iv, err = stats.Diversity(whole, prompts, m.whole.moments, opt)
		case score:
			values := make([]float64, len(made))
			for i := range made {
				values[i] = m.similarity(made[i].Embedding, captions[i])
			}
			iv, err = stats.MeanInterval(values, opt)
		}
		name := m.name(k)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if math.IsNaN(iv.Value) || math.IsInf(iv.Value, 0) {
			return nil, fmt.Errorf("%s of %d images is %v, which is not a number to report", name, len(made), iv.Value)
		}
		out = append(out, Result{name, iv})
	}
	return out, nil
}

func onceErr[T any](f func() (T, error)) func() (T, error) {
	var v T
	var err error
	done := false
	return func() (T, error) {
		if !done {
			v, err = f()
			done = true
		}
		return v, err
	}
}

func cropped(all []Look) bool {
	for _, l := range all {
		if !l.Cropped {
			return false
		}
	}
	return true
}

// similarity is the score of one image.
func (m *Meter) similarity(image, text []float64) float64 {
	dot := 0.0
	for i := range image {
		dot += image[i] * text[i]
	}
	if m.Standard.Score.Clamp {
		dot = max(dot, 0)
	}
	return m.Standard.Score.Scale * dot
}

// note says how a metric is made.
func (m *Meter) note(k kind) string {
	s, r := m.Standard, m.extractor.Release
	features := fmt.Sprintf("final pooled features of %s (content %s)", r.File, m.extractor.Content[:12])
	if !r.FID {
		features += ", which is not the FID network"
	}
	influence := " Interval from the " + string(stats.ByInfluence) + "."
	interval := influence[:len(influence)-1] + "; of 300 images and fewer from " + string(stats.ByParts) + "."
	switch k {
	case frechetWhole:
		return "Fréchet distance in the " + features + "; " + s.Whole.String() + "." + interval
	case frechetPatch:
		return "Fréchet distance in the " + features + "; " + s.Patch.String() + "." + interval
	case kernelWhole:
		return "Kernel inception distance: unbiased, third-degree polynomial kernel, 100 subsets of up to 1,000, in the same features of whole images." + influence
	case precision:
		return fmt.Sprintf("Part of the images that lie among the real ones, nearer to one than its %d nearest real neighbours; same features. Interval from the %s.", manifoldNeighbours, stats.ByBootstrap)
	case recall:
		return fmt.Sprintf("Part of the real images that lie among the images, nearer to one than its %d nearest neighbours; same features. Interval from %s.", manifoldNeighbours, stats.ByParts)
	case diversity:
		return "Mean distance between images of one prompt, 1 being the distance of two random real images; same features. Interval from the " + string(stats.ByBootstrap) + " over prompts."
	}
	c := s.Score
	text := fmt.Sprintf("Cosine of image and caption × %g, mean over images, in the CLIP in %s (SHA-256 %s)", c.Scale, m.scorer.model.Dir, m.scorer.SHA256[:12])
	if c.Clamp {
		text += ", no less than 0"
	}
	if c.Prefix != "" {
		text += fmt.Sprintf(", captions after %q", c.Prefix)
	}
	if c.Lanczos > 0 {
		text += fmt.Sprintf(", images first resized to %d by Lanczos", c.Lanczos)
	}
	if c.SHA256 != "" && c.SHA256 != m.scorer.SHA256 {
		text += "; the convention's is " + c.Model
	}
	return text + ". Interval from the " + string(stats.ByBootstrap) + "."
}

// Warnings say why numbers of so many images, measured from the reference that is set, should not be trusted.
func (m *Meter) Warnings(made int) (out []string) {
	if made < Few {
		out = append(out, fmt.Sprintf("%d images are few: distances fall with their number; compare with as many only, and give at least %d", made, Few))
	}
	if r := m.whole.moments; r != nil && r.Count() > 0 && r.Count() < Few {
		out = append(out, fmt.Sprintf("%d real images are few to measure from: give at least %d", r.Count(), Few))
	}
	if s := m.Standard.Score; m.scorer != nil && s.SHA256 != "" && s.SHA256 != m.scorer.SHA256 {
		out = append(out, fmt.Sprintf("the CLIP in %s is not convention %s's %s (SHA-256 %s): its score has another name", m.scorer.model.Dir, m.Standard.Name, s.Model, s.SHA256))
	}
	return out
}
