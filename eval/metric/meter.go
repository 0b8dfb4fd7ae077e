package metric

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"sync"

	"fewstep/data/images"
	"fewstep/engine"
	"fewstep/eval/stats"
	"fewstep/model/inception"
)

// Few is the number of samples below which distances say little; see [Meter.Warnings].
const Few = 2048

// manifoldNeighbours is the k of precision and recall, leastImages how many images that takes.
const (
	manifoldNeighbours = 3
	leastImages        = 2*manifoldNeighbours + 2
)

// Sources are the files that a standard's networks come from.
type Sources struct {
	Inception string // weights file, see [inception.Open]
	CLIP      string // folder, see clip.OpenModel; "" = no score
	Tokenizer string // folder of the CLIP's tokenizer, "" = the CLIP's own
}

// Meter measures images by one standard. Its methods are for one goroutine at a time, but Results may run beside Look.
type Meter struct {
	Standard Standard
	Started  func(metric string) // called before each metric of Results, which may take a minute; may be nil

	extractor *Extractor
	scorer    *Scorer // nil: no score

	whole, patch reference
}

// reference is what one kind of feature is compared with.
type reference struct {
	moments  *stats.Moments
	features [][]float64     // nil where only moments are known
	manifold *stats.Manifold // of features, made when it is first needed
}

// Look is what the networks see in one image: an opaque value that may be kept and saved.
type Look struct {
	Whole     []float32 // features of the whole image
	Patch     []float32 // features of the patch; nil without one
	Cropped   bool      // the patch is a patch, and not the whole of an image that is too small
	Embedding []float64 // CLIP's, of unit length; nil without a CLIP
}

// OpenMeter loads a standard's networks; programs work on batches of the given size. A missing file's error says how to
// fetch it.
func OpenMeter(e *engine.Engine, s Standard, from Sources, batch int) (*Meter, error) {
	if from.Inception == "" {
		return nil, fmt.Errorf("convention %s needs the weights of an Inception network:\n%s", s.Name, fetchInception())
	}
	m := &Meter{Standard: s}
	var err error
	if m.extractor, err = OpenExtractor(e, from.Inception, batch); err != nil {
		return nil, withHint(err, fetchInception())
	}
	if s.Score != nil && from.CLIP != "" {
		if m.scorer, err = OpenScorer(e, from.CLIP, from.Tokenizer, batch); err != nil {
			m.Free()
			return nil, withHint(err, s.Score.Fetch)
		}
	}
	return m, nil
}

// Free gives device memory back.
func (m *Meter) Free() {
	m.extractor.Free()
	if m.scorer != nil {
		m.scorer.Free()
	}
}

// prepared is an image as the three networks take it.
type prepared struct {
	whole, patch, score []float32
	cropped             bool
}

// Look looks at images, generated or real. An error names the image by its place.
func (m *Meter) Look(all []images.RGB) ([]Look, error) {
	ready := make([]prepared, len(all))
	failures := make([]error, len(all))
	var workers sync.WaitGroup
	next := make(chan int)
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		workers.Go(func() {
			for i := range next {
				if ready[i], failures[i] = m.prepare(all[i]); failures[i] != nil {
					failures[i] = fmt.Errorf("image %d: %w", i, failures[i])
				}
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	workers.Wait()
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	var inputs, scored [][]float32
	for _, p := range ready {
		inputs = append(inputs, p.whole)
		if p.patch != nil {
			inputs = append(inputs, p.patch)
		}
		if p.score != nil {
			scored = append(scored, p.score)
		}
	}
	features, err := m.extractor.Features(inputs)
	if err != nil {
		return nil, err
	}
	var embeddings [][]float64
	if m.scorer != nil {
		if embeddings, err = m.scorer.Images(scored); err != nil {
			return nil, err
		}
	}
	out := make([]Look, len(all))
	for i, p := range ready {
		out[i].Whole, features = features[0], features[1:]
		if p.patch != nil {
			out[i].Patch, out[i].Cropped, features = features[0], p.cropped, features[1:]
		}
		if m.scorer != nil {
			out[i].Embedding = embeddings[i]
		}
		for _, v := range out[i].Whole {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("image %d: its Inception features are %v: the weights in use do not fit the network", i, v)
			}
		}
	}
	return out, nil
}

func (m *Meter) prepare(img images.RGB) (p prepared, err error) {
	if err := img.Check(); err != nil {
		return p, err
	}
	whole, _, err := m.Standard.Whole.apply(img)
	if err != nil {
		return p, err
	}
	m.Standard.scaled(whole.Pix, m.extractor.Release)
	p.whole = whole.Pix
	if t := m.Standard.Patch; t != nil {
		patch, cropped, err := t.apply(img)
		if err != nil {
			return p, err
		}
		m.Standard.scaled(patch.Pix, m.extractor.Release)
		p.patch, p.cropped = patch.Pix, cropped
	}
	if m.scorer != nil {
		p.score, err = m.Standard.Score.prepare(m.scorer.model.Preprocess, img)
	}
	return p, err
}

// Captions embeds what images are to be compared with; nil without a CLIP.
func (m *Meter) Captions(captions []string) ([][]float64, error) {
	if m.scorer == nil {
		return nil, nil
	}
	prefixed := make([]string, len(captions))
	for i, c := range captions {
		prefixed[i] = m.Standard.Score.Prefix + c
	}
	return m.scorer.Texts(prefixed)
}

// Refer takes the real images that others are measured from.
func (m *Meter) Refer(real []Look) error {
	if len(real) < leastImages {
		return fmt.Errorf("%d real images are too few to measure from: give at least %d, and %d for numbers that can be compared", len(real), leastImages, Few)
	}
	set := func(r *reference, of func(Look) []float32) (err error) {
		*r = reference{features: wide(real, of)}
		r.moments, err = stats.MomentsOf(r.features)
		return err
	}
	if err := set(&m.whole, wholeLook); err != nil {
		return fmt.Errorf("real images: %w", err)
	}
	if m.Standard.Patch == nil {
		return nil
	}
	if err := set(&m.patch, patchLook); err != nil {
		return fmt.Errorf("patches of real images: %w", err)
	}
	return nil
}

// ReferTo takes statistics of real images, as pytorch-fid and clean-fid save them, of whole images and of patches;
// either may be nil. Only Fréchet distances can be measured from them.
func (m *Meter) ReferTo(whole, patch *stats.Moments) error {
	for name, s := range map[string]*stats.Moments{"whole images": whole, "patches": patch} {
		if s != nil && s.Dims() != featureWidth {
			return fmt.Errorf("the reference statistics of %s have %d dimensions, the features of %s have %d: they come from another network or layer", name, s.Dims(), m.extractor.Release.Name, featureWidth)
		}
	}
	if patch != nil && m.Standard.Patch == nil {
		return fmt.Errorf("convention %s measures no patches", m.Standard.Name)
	}
	m.whole, m.patch = reference{moments: whole}, reference{moments: patch}
	return nil
}

// Moments are the statistics of the real images given to Refer, to be saved.
func (m *Meter) Moments() (whole, patch *stats.Moments) { return m.whole.moments, m.patch.moments }

// featureWidth is the number of dimensions of the features that are compared.
const featureWidth = 2048

func wholeLook(l Look) []float32 { return l.Whole }
func patchLook(l Look) []float32 { return l.Patch }

func wide(all []Look, of func(Look) []float32) [][]float64 {
	features := make([][]float32, len(all))
	for i, l := range all {
		features[i] = of(l)
	}
	return widened(features)
}

// fetchInception says where weights come from.
func fetchInception() string {
	fid, other := inception.FID, inception.NSFWJS
	return fmt.Sprintf("  %s\n  (%d bytes, SHA-256 %s), or for distances called FD(%s) the pretrained network of an npm package, known as %s:\n  %s",
		fid.Fetch, fid.Size, fid.SHA256, other.Name, other.Name, other.Fetch)
}

func withHint(err error, hint string) error {
	if hint == "" || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w\nfetch it with:\n%s", err, hint)
}
