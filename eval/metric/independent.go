package metric

import (
	"errors"
	"fmt"
	"runtime"

	"fewstep/data/images"
	"fewstep/engine"
	"fewstep/eval/stats"

	"golang.org/x/sync/errgroup"
)

// Independent is a Fréchet distance in the features of an Inception network, as a second opinion beside a pipeline's own
// CLIP: whole images by clean-fid's rule.
type Independent struct {
	extractor *Extractor
	standard  Standard
	reference *stats.Moments
}

// OpenIndependent loads the network's weights, a file or the release of that name (see [OpenExtractor]). The error of a
// file that is not there is fs.ErrNotExist and says how to fetch it.
func OpenIndependent(e *engine.Engine, path string, batch int) (*Independent, error) {
	x, err := OpenExtractor(e, path, batch)
	if err != nil {
		return nil, withHint(err, fetchInception())
	}
	s, err := FindStandard("mini")
	return &Independent{extractor: x, standard: s}, err
}

// Free gives device memory back.
func (n *Independent) Free() { n.extractor.Free() }

// Measure explains the metric: FID only in the features of the FID network.
func (n *Independent) Measure() Measure {
	r := n.extractor.Release
	name := "FD(" + r.Name + ")"
	if r.FID {
		name = "FID"
	}
	return Measure{Name: name, Note: fmt.Sprintf("Fréchet distance in the final pooled features of %s (content %s), a network that neither the models nor mini-clip were trained with; %s. Interval from the %s; of 300 images and fewer from %s.",
		r.File, n.extractor.Content[:12], n.standard.Whole, stats.ByInfluence, stats.ByParts)}
}

// Look returns the features [2048] of images.
func (n *Independent) Look(all []images.RGB) ([][]float32, error) {
	prepared := make([][]float32, len(all))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, img := range all {
		g.Go(func() error {
			whole, _, err := n.standard.Whole.apply(img)
			if err != nil {
				return fmt.Errorf("image %d: %w", i, err)
			}
			n.standard.scaled(whole.Pix, n.extractor.Release)
			prepared[i] = whole.Pix
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return n.extractor.Features(prepared)
}

// Refer takes the features of the real images that distances are measured from.
func (n *Independent) Refer(real [][]float32) (err error) {
	n.reference, err = stats.MomentsOf(widened(real))
	return err
}

// Distance of images from the real ones.
func (n *Independent) Distance(made [][]float32, opt stats.Resampling) (stats.Interval, error) {
	if n.reference == nil {
		return stats.Interval{}, errors.New("there are no real images to measure from")
	}
	return frechet(widened(made), n.reference, opt)
}

func widened(all [][]float32) [][]float64 {
	out := make([][]float64, len(all))
	for i, f := range all {
		out[i] = make([]float64, len(f))
		for k, v := range f {
			out[i][k] = float64(v)
		}
	}
	return out
}
