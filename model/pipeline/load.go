package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/weights"
)

// Weights are a UNet's tensors and how to sample with them.
type Weights struct {
	Values     engine.Tensors
	Prediction distill.Prediction // what the network predicts
	Steps      int                // network calls the weights are made for; 0 = the files do not say
	Guidance   float64            // classifier-free guidance they are made for, where Steps is given; 0 = none
	Title      string             // what the file calls itself, may be empty
}

// LoadUNet reads the pipeline's UNet, or the state dict unetFile in its place (diffusers' names, any element type),
// and merges the LoRA loraFile into it (any naming package lora reads); both files may be "". Prediction, steps and
// guidance are those in the files' metadata, the LoRA's before the UNet's, else the pipeline's own.
//
// specs are those of UNetSpecs without adapters. A file for another architecture is an error that names the tensor
// or module.
func (p *Pipeline) LoadUNet(specs []nn.Spec, unetFile, loraFile string) (*Weights, error) {
	w := &Weights{Prediction: p.Prediction}
	var err error
	if unetFile == "" {
		w.Values, err = w.readOwn(p.Dir)
	} else {
		w.Values, err = w.readUNet(unetFile, specs)
	}
	if err != nil {
		return nil, err
	}
	if loraFile != "" {
		if err := w.merge(loraFile, specs); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// readOwn reads the model's UNet and, unless it is in shards, what its file says; the prediction type is the
// scheduler's.
func (w *Weights) readOwn(dir string) (engine.Tensors, error) {
	values, err := Read(dir, "unet")
	if err != nil {
		return nil, err
	}
	b, err := bundle.Open(dir, bundle.Options{})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	metadata, err := b.Metadata()
	if err != nil {
		return nil, err
	}
	own := w.Prediction
	err = w.describe(dir, metadata)
	w.Prediction = own
	return values, err
}

// readUNet reads a UNet file, one in shards, or the UNet of a single file; it must have exactly the tensors of specs.
func (w *Weights) readUNet(path string, specs []nn.Spec) (engine.Tensors, error) {
	src, err := weights.OpenModel(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	var metadata map[string]string
	if f, ok := src.(*weights.File); ok {
		metadata = f.Metadata()
	}
	f := src
	switch ldm.Identify(src) {
	case ldm.Diffusers, ldm.Unknown: // judged by the tensors below
	case ldm.LoRA:
		return nil, fmt.Errorf("%s: a LoRA, not a UNet; merge it onto the model instead", path)
	default:
		c, err := ldm.New(path, src, metadata)
		if err != nil {
			return nil, err
		}
		if f, err = c.Component(ldm.UNet); err != nil {
			return nil, err
		}
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s: the file is not for this model", path, fmt.Sprintf(format, args...))
	}
	left := map[string]bool{}
	for _, name := range f.Names() {
		left[name] = true
	}
	values := engine.Tensors{}
	for _, s := range specs {
		if !left[s.Name] {
			return nil, wrong("tensor %s of shape %v is missing", s.Name, s.Dims)
		}
		delete(left, s.Name)
		t, err := f.Tensor(s.Name)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(t.Shape, s.Dims) {
			return nil, wrong("tensor %s has the shape %v, the model's is %v", s.Name, t.Shape, s.Dims)
		}
		if values[s.Name], err = t.Finite(); err != nil {
			return nil, err
		}
	}
	for _, name := range f.Names() {
		if left[name] {
			return nil, wrong("tensor %s has no place in the model", name)
		}
	}
	return values, w.describe(path, metadata)
}

func (w *Weights) merge(path string, specs []nn.Spec) error {
	modules, report, err := lora.Read(path, Modules(specs))
	if err != nil {
		return err
	}
	shapes := map[string][]int{}
	for _, s := range specs {
		if module, ok := strings.CutSuffix(s.Name, ".weight"); ok {
			shapes[module] = s.Dims
		}
	}
	if err := lora.CheckTargets(modules, shapes); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, m := range modules {
		if err := lora.Merge(w.Values[m.Path+".weight"], shapes[m.Path], m); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return w.describe(path, report.Metadata)
}

// describe takes over what a file says about sampling with it.
func (w *Weights) describe(path string, metadata map[string]string) error {
	spec, _ := weights.ParseModelSpec(metadata)
	if spec.PredictionType != "" {
		p, err := distill.ParsePrediction(spec.PredictionType)
		if err != nil {
			return fmt.Errorf("%s: metadata: %w", path, err)
		}
		w.Prediction = p
	}
	if spec.SamplerSteps > 0 {
		w.Steps, w.Guidance = spec.SamplerSteps, spec.GuidanceScale
	}
	if spec.Title != "" {
		w.Title = spec.Title
	}
	return nil
}

// Modules are the paths of a network's linear and convolution layers: what a LoRA can adapt.
func Modules(specs []nn.Spec) (paths []string) {
	for _, s := range specs {
		if path, ok := strings.CutSuffix(s.Name, ".weight"); ok && len(s.Dims) > 1 {
			paths = append(paths, path)
		}
	}
	return paths
}
