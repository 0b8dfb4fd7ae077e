package train

import (
	"fmt"

	"fewstep/data/bucket"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/shapes"
)

// largest is the shape of images that takes most memory and time: plans and warming are for it.
func (r *Run) largest() pipeline.Size { return pipeline.Size(r.Config.Data.Largest()) }

// inputs are the shapes of the denoiser's inputs for n of the largest images.
func (r *Run) inputs(n int) []shapes.Shape { return r.Pipeline.UNetInputs(n, r.largest()) }

// checkShapes says why the model cannot be trained in the recipe's shapes.
func (r *Run) checkShapes() error {
	list, err := r.Config.Data.Shapes()
	if err != nil {
		return err
	}
	if len(list) == 1 && list[0] == (bucket.Size{Width: r.Config.Data.Resolution, Height: r.Config.Data.Resolution}) {
		return nil // data.resolution is checked with the network
	}
	for _, s := range list {
		if err := r.Pipeline.CheckSize(pipeline.Size(s)); err != nil {
			return fmt.Errorf("data.buckets: the shape %v: %w", s, err)
		}
	}
	return nil
}
