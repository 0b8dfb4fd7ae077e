package train

import (
	"fmt"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/gomlx/compute/dtypes"
)

// optimizerFile is tensors of an optimizer's state, in the dtypes in which it is kept.
func optimizerFile(name string, o *engine.Optimizer, specs []nn.Spec, value func(nn.Spec) ([]float32, error), check func(tensor string, v []float32) error) rundir.File {
	return rundir.File{Name: name, WritePath: func(path string) error {
		tensors := make([]weights.Tensor, len(specs))
		for i, s := range specs {
			to := stored(o.Saved(s.Name))
			tensors[i] = weights.Tensor{Name: s.Name, DType: to, Shape: s.Dims, Fill: func() ([]byte, error) {
				v, err := value(s)
				if err == nil {
					err = check(s.Name, v)
				}
				if err != nil {
					return nil, err
				}
				return weights.Encode(v, to)
			}}
		}
		return weights.Write(path, tensors, nil)
	}}
}

// savedState gives an optimizer's saved state, which must be of the dtypes in which the recipe keeps it.
func savedState(f weights.Source, path string, o *engine.Optimizer) func(nn.Spec) ([]float32, error) {
	read := pipeline.Reader(f)
	return func(s nn.Spec) ([]float32, error) {
		t, err := f.Tensor(s.Name)
		if err != nil {
			return nil, err
		}
		if want := stored(o.Saved(s.Name)); t.DType != want {
			return nil, fmt.Errorf("%s: tensor %q is %s, and train.moments asks for %s; a phase goes on with the moments that it was begun with: set train.moments back, or use a new run directory",
				path, s.Name, t.DType, want)
		}
		return read(s)
	}
}

// stored is a device's dtype in files.
func stored(d dtypes.DType) weights.DType {
	if d == dtypes.BFloat16 {
		return weights.BF16
	}
	return weights.F32
}

func trainedSpecs(params *engine.Params) (out []nn.Spec) {
	names := map[string]bool{}
	for _, n := range params.Trained() {
		names[n] = true
	}
	for _, s := range params.Specs {
		if names[s.Name] {
			out = append(out, s)
		}
	}
	return out
}

// tensorFile is a file of f32 tensors that are asked for one by one while it is written, and checked.
func tensorFile(name string, specs []nn.Spec, value func(nn.Spec) ([]float32, error), check func(tensor string, v []float32) error) rundir.File {
	tested := func(s nn.Spec) ([]float32, error) {
		v, err := value(s)
		if err == nil {
			err = check(s.Name, v)
		}
		return v, err
	}
	return rundir.File{Name: name, WritePath: func(path string) error {
		return pipeline.WriteFunc(path, specs, tested, weights.F32, nil)
	}}
}

// finite refuses to save a tensor with NaN or infinity: a run would go on from it for ever, and it would take the place of
// older checkpoints that are sound.
func finite(file string, step distill.Step, updates int64) func(tensor string, values []float32) error {
	return func(tensor string, values []float32) error {
		for _, v := range values {
			if v-v != 0 {
				return &monitor.NonFinite{What: fmt.Sprintf("tensor %q of %s", tensor, file), Value: float64(v), Stage: step.StageName, Phase: step.PhaseName, Step: updates}
			}
		}
		return nil
	}
}
