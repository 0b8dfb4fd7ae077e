package train

import (
	"fmt"
	"path/filepath"
	"slices"

	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
)

// checkWeights compares every component's weights files with its architecture, by their headers alone: what is
// missing, cut off or of another shape ends a run before its directory is made.
func (r *Run) checkWeights() error {
	p := r.Pipeline
	specs := map[string]func() ([]nn.Spec, error){
		"unet": func() ([]nn.Spec, error) { return p.UNetSpecs(r.opt.Backend, nil) },
		"vae": func() ([]nn.Spec, error) {
			return p.VAESpecs(engine.New(r.opt.Backend, dtypes.Float32, nn.Network))
		},
		"text_encoder": func() ([]nn.Spec, error) {
			return nn.Trace(r.opt.Backend, p.Text[0].Text(""), p.TextShapes(1)...)
		},
		"text_encoder_2": func() ([]nn.Spec, error) {
			return nn.Trace(r.opt.Backend, p.Text[1].Text(""), p.TextShapes(1)...)
		},
	}
	for _, component := range components {
		want, err := specs[component]()
		if err != nil {
			return err
		}
		if err := checkTensors(filepath.Join(p.Dir, component), want); err != nil {
			return err
		}
	}
	return nil
}

// checkTensors looks for every tensor of specs in a component's folder.
func checkTensors(dir string, specs []nn.Spec) error {
	src, err := weights.OpenModel(dir)
	if err != nil {
		return err
	}
	defer src.Close()
	has := map[string]bool{}
	for _, name := range src.Names() {
		has[name] = true
	}
	for _, s := range specs {
		if !has[s.Name] {
			return fmt.Errorf("%s: tensor %s of shape %v is missing: the weights are not those of its config.json", dir, s.Name, s.Dims)
		}
		t, err := src.Tensor(s.Name)
		if err != nil {
			return err
		}
		if !slices.Equal(t.Shape, s.Dims) {
			return fmt.Errorf("%s: tensor %s has the shape %v, config.json asks for %v", dir, s.Name, t.Shape, s.Dims)
		}
	}
	return nil
}
