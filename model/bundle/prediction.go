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
	return append(all, prediction.OfMetadata(metadata)), nil
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
