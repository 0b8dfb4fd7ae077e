package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"fewstep/model/ldm"
	"fewstep/model/prediction"
)

const schedulerFile = "scheduler/scheduler_config.json"

// Prediction is what the model predicts, by all that it says about that: marker tensors before the scheduler's config,
// that before the metadata. notes tell of contradictions; the error names a noise that is not SDXL's.
func (b *Bundle) Prediction() (t prediction.Type, notes []string, err error) {
	said, err := b.said()
	if err == nil {
		t, notes, err = prediction.Of(said...)
	}
	if err != nil {
		return t, nil, fmt.Errorf("%s: %w", b.Path, err)
	}
	return t, notes, nil
}

// said is what each place says, the one that counts most first.
func (b *Bundle) said() ([]prediction.Said, error) {
	if raw, ok := b.replacedFiles[schedulerFile]; ok {
		s, err := prediction.OfScheduler(raw)
		return []prediction.Said{s}, err
	}
	if slices.ContainsFunc(b.taken, prediction.Said.Says) {
		return b.taken, nil
	}
	var all []prediction.Said
	if b.Has(ldm.UNet) {
		if _, err := b.Weights(ldm.UNet); err != nil {
			return nil, err
		}
	}
	all = append(all, prediction.OfTensors(append(b.LeftOut(), b.markers...)))
	raw, err := b.ownFile(schedulerFile)
	switch {
	case err == nil:
		s, err := prediction.OfScheduler(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if !b.Has(ldm.UNet) {
		return all, nil
	}
	metadata, err := b.Metadata()
	if err != nil {
		return nil, err
	}
	all = append(all, prediction.OfMetadata(metadata))
	if !slices.ContainsFunc(all, prediction.Said.Says) {
		said, err := b.saidByWeights()
		if err != nil {
			return nil, err
		}
		all = append(all, said)
	}
	return all, nil
}

// saidByWeights is what ComfyUI goes by for a file of Stable Diffusion 2 that says nothing: the models that predict v have a
// norm whose biases are spread wider than 0.09.
func (b *Bundle) saidByWeights() (s prediction.Said, err error) {
	if b.checkpoint == nil || b.checkpoint.Family() != ldm.SD2 {
		return s, nil
	}
	const name = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
	src, err := b.Weights(ldm.UNet)
	if err != nil {
		return s, err
	}
	if !slices.Contains(src.Names(), name) { // a UNet of other levels
		return s, nil
	}
	t, err := src.Tensor(name)
	if err != nil {
		return s, err
	}
	values, err := t.Float32()
	if err != nil {
		return s, err
	}
	var sum, squares float64
	for _, v := range values {
		sum, squares = sum+float64(v), squares+float64(v)*float64(v)
	}
	n := float64(len(values))
	if squares/n-sum/n*sum/n > 0.09*0.09 {
		s = prediction.Said{Where: "the spread of the tensor " + name + ", as ComfyUI judges it", Target: prediction.V}
	}
	return s, nil
}

// saidItself is said without what was derived because the file itself does not say it.
func (b *Bundle) saidItself() ([]prediction.Said, error) {
	all, err := b.said()
	if _, derived := b.metadata[metadataFile+schedulerFile]; !derived && b.files != nil {
		all = slices.DeleteFunc(all, func(s prediction.Said) bool { return s.Where == prediction.SchedulerConfig })
	}
	return all, err
}

// leaveOut takes names for tensors that no component has; markers of the prediction are understood, not left out.
func (b *Bundle) leaveOut(names []string) {
	for _, name := range names {
		if prediction.IsMarker(name) {
			b.markers = append(b.markers, name)
		} else {
			b.leftOut = append(b.leftOut, name)
		}
	}
}
