package train

import (
	"fmt"
	"log/slog"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/pipeline"
	"fewstep/train/rundir"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
)

// Setup is what a run was opened with. Models, loader and phases read it; nothing changes it once the run is open.
type Setup struct {
	Config   *configs.Recipe
	Pipeline *pipeline.Pipeline
	Dir      *rundir.Dir
	Ladder   *distill.Ladder
	Data     *data.Set
	*ranks

	folder  string // run directory, which may not be there yet
	backend compute.Backend
	log     *slog.Logger
}

// largest is the shape of images that takes most memory and time: plans and warming are for it.
func (s *Setup) largest() pipeline.Size { return pipeline.Size(s.Config.Data.Largest()) }

// inputs are the shapes of the denoiser's inputs for n of the largest images.
func (s *Setup) inputs(n int) []shapes.Shape { return s.Pipeline.UNetInputs(n, s.largest()) }

// checkDevices says why the devices cannot train together: they take equal parts of a micro-batch.
func (s *Setup) checkDevices() error {
	if s.each > 1 {
		if have := int(s.backend.NumDevices()); s.each > have {
			return fmt.Errorf("%d devices are asked for, and this process drives %d; choose fewer", s.each, have)
		}
	}
	if n, batch := s.devices(), s.Config.Train.Batch; batch%n != 0 {
		return Indivisible(batch, n)
	}
	return nil
}

// Indivisible is the error of a micro-batch that so many devices cannot share.
func Indivisible(batch, devices int) error {
	return fmt.Errorf("train.batch is %d, and %d devices take equal parts of it: choose a multiple of %d, or other --devices", batch, devices, devices)
}

// openModel opens the recipe's model, and says why it cannot be trained as the recipe says.
func (s *Setup) openModel() (err error) {
	c := s.Config
	if s.Pipeline, err = pipeline.Open(c.ModelPath()); err != nil {
		return err
	}
	if err := c.CheckTimesteps(s.Pipeline.Schedule.T()); err != nil {
		return err
	}
	if c.Data.VAETile > 0 {
		if _, err := s.Pipeline.VAE.EncodeTiles(c.Data.VAETile); err != nil {
			return fmt.Errorf("data.vae_tile: %w", err)
		}
	}
	return s.checkShapes()
}

// checkShapes says why the model cannot be trained in the recipe's shapes.
func (s *Setup) checkShapes() error {
	list, err := s.Config.Data.Shapes()
	if err != nil {
		return err
	}
	if len(list) == 1 && list[0] == (bucket.Size{Width: s.Config.Data.Resolution, Height: s.Config.Data.Resolution}) {
		return nil // data.resolution is checked with the network
	}
	for _, shape := range list {
		if err := s.Pipeline.CheckSize(pipeline.Size(shape)); err != nil {
			return fmt.Errorf("data.buckets: the shape %v: %w", shape, err)
		}
	}
	return nil
}

// checkWeights compares every component's weights files with its architecture, by their headers alone: what is
// missing, cut off or of another shape ends a run before its directory is made.
func (s *Setup) checkWeights() error {
	b, err := bundle.Open(s.Pipeline.Dir, bundle.Options{})
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Complete(); err != nil {
		return err
	}
	return b.CheckAll()
}
