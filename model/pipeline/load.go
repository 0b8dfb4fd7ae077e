package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/prediction"
	"fewstep/model/process"
	"fewstep/model/weights"
)

// Weights are a UNet's tensors and how to sample with them. The tensors stay in their files until Load.
type Weights struct {
	Prediction process.Prediction // what the network predicts
	Schedule   *process.Schedule  // of the noise that it was trained on
	Steps      int                // network calls the weights are made for; 0 = the files do not say
	Guidance   float64            // classifier-free guidance they are made for, where Steps is given; 0 = none
	Sampler    string             // they are made for, where Steps is given; "" = any
	Original   int                // steps that a consistency model was distilled from; 0 = it is none
	Title      string             // what the file calls itself, may be empty
	Notes      []string           // what of the files was left out, for the user

	src   weights.Source            // diffusers' names
	text  map[string]weights.Source // text encoders that a LoRA changes
	close func() error
}

// LoadUNet opens the pipeline's UNet, or unetFile in its place (a UNet file of either naming, in shards or not, or a
// single file; any element type), and puts the LoRA loraFile on it (any naming package lora reads); both files may be
// "". What the network predicts is what the UNet file says, else the pipeline's; a LoRA changes nothing in that. Steps and
// guidance are those in the files' metadata, the LoRA's before the UNet's.
//
// specs are those of UNetSpecs without adapters. A file for another architecture is an error that names the tensor
// or module. The caller closes the weights when they have been loaded.
func (p *Pipeline) LoadUNet(specs []nn.Spec, unetFile, loraFile string) (w *Weights, err error) {
	w = &Weights{Prediction: p.Prediction, Schedule: p.Schedule, close: func() error { return nil }}
	defer func() {
		if err != nil {
			w.Close()
			w = nil
		}
	}()
	if unetFile == "" {
		err = w.openOwn(p)
	} else {
		err = w.openUNet(p, unetFile, specs)
	}
	if err == nil && loraFile != "" {
		err = w.merge(p, loraFile, specs)
	}
	return w, err
}

// Value gives one tensor at a time, for engine.LoadFunc: the host never holds them all.
func (w *Weights) Value(s nn.Spec) ([]float32, error) { return Reader(w.src)(s) }

// Close closes the files.
func (w *Weights) Close() error { return w.close() }

// openOwn opens the model's UNet and, unless it is in shards, reads what its file says; the prediction type is the
// scheduler's.
func (w *Weights) openOwn(p *Pipeline) error {
	b, err := bundle.Open(p.Dir, bundle.Options{Config: p.Config})
	if err != nil {
		return err
	}
	w.close = b.Close
	if w.src, err = b.Weights(ldm.UNet); err != nil {
		return err
	}
	w.leftOut(p.Dir, b.LeftOut())
	metadata, err := b.Metadata()
	if err != nil {
		return err
	}
	w.describe(metadata)
	return nil
}

// openUNet opens a file that must have exactly the tensors of specs.
func (w *Weights) openUNet(p *Pipeline, path string, specs []nn.Spec) error {
	src, err := weights.OpenModel(path)
	if err != nil {
		return err
	}
	w.src, w.close = src, src.Close
	var leftOut, strangers []string
	var metadata map[string]string
	if f, ok := src.(*weights.File); ok {
		metadata = f.Metadata()
	}
	switch ldm.Identify(src) {
	case ldm.Unknown: // judged by the tensors below
	case ldm.LoRA:
		return fmt.Errorf("%s: a LoRA, not a UNet; merge it onto the model instead", path)
	default:
		c, err := ldm.New(path, src, metadata)
		if err != nil {
			return err
		}
		if w.src, err = c.Component(ldm.UNet); err != nil {
			return err
		}
		leftOut = c.LeftOut()
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s: the file is not for this model", path, fmt.Sprintf(format, args...))
	}
	want := map[string]bool{}
	for _, s := range specs {
		want[s.Name] = true
	}
	w.src, strangers = bundle.OwnOf(w.src, want)
	w.leftOut(path, append(leftOut, strangers...))
	left := map[string]bool{}
	for _, name := range w.src.Names() {
		left[name] = true
	}
	for _, s := range specs {
		if !left[s.Name] {
			return wrong("tensor %s of shape %v is missing", s.Name, s.Dims)
		}
		delete(left, s.Name)
		t, err := w.src.Tensor(s.Name)
		if err != nil {
			return err
		}
		if !slices.Equal(t.Shape, s.Dims) {
			return wrong("tensor %s has the shape %v, the model's is %v", s.Name, t.Shape, s.Dims)
		}
	}
	for _, name := range w.src.Names() {
		if left[name] {
			return wrong("tensor %s has no place in the model", name)
		}
	}
	w.describe(metadata)
	notes, err := w.predict(p, path, src.Names(), metadata)
	w.Notes = append(w.Notes, notes...)
	return err
}

// Predicts is what the UNet of a file predicts, of which noise, by its tensors and its metadata; the pipeline's own where
// they are silent. notes tell of contradictions.
func (p *Pipeline) Predicts(path string, tensors []string, metadata map[string]string) (process.Prediction, *process.Schedule, []string, error) {
	said := []prediction.Said{prediction.OfTensors(tensors), prediction.OfMetadata(metadata)}
	if !slices.ContainsFunc(said, prediction.Said.Says) {
		return p.Prediction, p.Schedule, nil, nil
	}
	kind, notes, err := prediction.Of(said...)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range notes {
		notes[i] = path + ": " + notes[i]
	}
	predicted, err := process.ParsePrediction(kind.Target)
	if err == nil {
		err = predicted.CheckZeroSNR(kind.ZeroSNR)
	}
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	// A student that predicts x0 learned it on its base's schedule, whether its file tells or not.
	schedule := p.Schedule
	if schedule != nil && (predicted != process.Sample || kind.ZeroSNR) {
		schedule = schedule.WithZeroSNR(kind.ZeroSNR)
	}
	return predicted, schedule, notes, nil
}

func (w *Weights) predict(p *Pipeline, path string, tensors []string, metadata map[string]string) (notes []string, err error) {
	w.Prediction, w.Schedule, notes, err = p.Predicts(path, tensors, metadata)
	return notes, err
}

// leftOut notes tensors that no part of the model has.
func (w *Weights) leftOut(path string, names []string) {
	names = slices.DeleteFunc(slices.Clone(names), prediction.IsMarker)
	switch n := len(names); {
	case n > 1:
		w.Notes = append(w.Notes, fmt.Sprintf("%s: %d tensors are no part of the model and left out, such as %s", path, n, names[0]))
	case n == 1:
		w.Notes = append(w.Notes, fmt.Sprintf("%s: the tensor %s is no part of the model and left out", path, names[0]))
	}
}

// merge puts a LoRA over the UNet, and over the text encoders that it changes.
func (w *Weights) merge(p *Pipeline, path string, specs []nn.Spec) error {
	path, err := lora.File(path)
	if err != nil {
		return err
	}
	layers := lora.Layers{ldm.UNet: modulePaths(specs)}
	text := map[string]weights.Source{}
	for i := range p.Text {
		component := p.Kind.Text[i]
		src, err := OpenWeights(p.Dir, component)
		if err != nil {
			return err
		}
		before := w.close
		w.close = func() error { return errors.Join(before(), src.Close()) }
		text[component], layers[component] = src, lora.AllLayers(src)
	}
	a, err := lora.Open(path, layers)
	if err != nil {
		return err
	}
	if w.src, err = a.Merged(ldm.UNet, w.src, 1, weights.F32); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for component, src := range text {
		if !a.Has(component) {
			continue
		}
		if text[component], err = a.Merged(component, src, 1, weights.F32); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if w.text == nil {
			w.text = map[string]weights.Source{}
		}
		w.text[component] = text[component]
	}
	for _, note := range a.Notes() {
		w.Notes = append(w.Notes, path+": "+note)
	}
	if said := prediction.OfMetadata(a.Metadata); said.Target != "" && said.Target != w.Prediction.String() {
		w.Notes = append(w.Notes, fmt.Sprintf("%s: the LoRA was made for a network that predicts %s, and this one predicts %s", path, said.Target, w.Prediction))
	}
	w.describe(a.Metadata)
	return nil
}

// ChangesText says whether a LoRA changes the text encoders.
func (w *Weights) ChangesText() bool { return len(w.text) > 0 }

// Text are the text encoders that a LoRA changes, as it changes them, by component.
func (w *Weights) Text() map[string]weights.Source { return w.text }

// describe takes over what a file says about sampling with it.
func (w *Weights) describe(metadata map[string]string) {
	spec, _ := weights.ParseModelSpec(metadata)
	if spec.SamplerSteps > 0 {
		w.Steps, w.Guidance, w.Sampler, w.Original = spec.SamplerSteps, spec.GuidanceScale, spec.Sampler, spec.OriginalSteps
	}
	if spec.Title != "" {
		w.Title = spec.Title
	}
}

// modulePaths are the paths of a network's layers.
func modulePaths(specs []nn.Spec) (paths []string) {
	for _, s := range specs {
		if path, ok := strings.CutSuffix(s.Name, ".weight"); ok {
			paths = append(paths, path)
		}
	}
	return paths
}
