package eval

import (
	"fmt"
	"image"
	"math"
	"os"
	"path/filepath"
	"strings"

	"fewstep/data/images"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/stats"
)

// meterJudge measures by a convention with Inception features: lightning, dmd2, pytorch-fid, tf1 or mini.
type meterJudge struct {
	meter      *metric.Meter
	resampling stats.Resampling
}

// meterCaptions are prompts and, where there is a CLIP, their embeddings.
type meterCaptions struct {
	prompts  []string
	embedded [][]float64
}

func (j *meterJudge) Free()         { j.meter.Free() }
func (j *meterJudge) AnySize() bool { return true }
func (j *meterJudge) AtOnce() int   { return 1 }

func (j *meterJudge) Warnings(images int) []string { return j.meter.Warnings(images) }

func (j *meterJudge) Features(all []*image.NRGBA) ([]Features, error) {
	in := make([]images.RGB, len(all))
	for i, img := range all {
		in[i] = images.FromImage(img)
	}
	looks, err := j.meter.Look(in)
	if err != nil {
		return nil, err
	}
	out := make([]Features, len(looks))
	for i, l := range looks {
		out[i] = l
	}
	return out, nil
}

func meterLooks(all []Features) []metric.Look {
	out := make([]metric.Look, len(all))
	for i, f := range all {
		out[i] = f.(metric.Look)
	}
	return out
}

func (j *meterJudge) Captions(captions []string) (Captions, error) {
	embedded, err := j.meter.Captions(captions)
	return meterCaptions{captions, embedded}, err
}

func (j *meterJudge) Refer(real []Features) error { return j.meter.Refer(meterLooks(real)) }

// referTo takes saved statistics of real images: of whole ones and, if there is a second file, of patches.
func (j *meterJudge) referTo(paths []string) error {
	if len(paths) < 1 || len(paths) > 2 {
		return fmt.Errorf("%d files of reference statistics: give one of whole images and, if there are patches, one of them", len(paths))
	}
	var moments [2]*stats.Moments
	for i, path := range paths {
		var err error
		if moments[i], err = stats.ReadNPZ(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return j.meter.ReferTo(moments[0], moments[1])
}

// saveStats writes the statistics of the real images, whole.npz and, where there are patches, patch.npz.
func (s *Spec) saveStats(judge Judge) error {
	j, ok := judge.(*meterJudge)
	if !ok {
		return fmt.Errorf("convention %s has no statistics of real images to save: they are of Inception features", metric.Convention)
	}
	whole, patch := j.meter.Moments()
	if whole == nil {
		return fmt.Errorf("there are no real images whose statistics could be saved")
	}
	if err := os.MkdirAll(s.SaveStats, 0o755); err != nil {
		return err
	}
	for name, m := range map[string]*stats.Moments{"whole.npz": whole, "patch.npz": patch} {
		if m == nil {
			continue
		}
		if err := stats.WriteNPZ(filepath.Join(s.SaveStats, name), m); err != nil {
			return err
		}
	}
	return nil
}

// Pack and Unpack do nothing: the conventions of papers compare no image with the teacher's.
func (j *meterJudge) Pack([]Features) ([]byte, error)   { return nil, nil }
func (j *meterJudge) Unpack([]byte) ([]Features, error) { return nil, nil }

func (j *meterJudge) Measure(images []Features, captions Captions, _ []Features) ([]Value, error) {
	c := captions.(meterCaptions)
	opt := j.resampling
	if !j.intervals() {
		opt.Resamples = 20 // the fewest that the statistics take; what they give is left out
	}
	results, err := j.meter.Results(meterLooks(images), c.prompts, c.embedded, opt)
	if err != nil {
		return nil, err
	}
	out := make([]Value, len(results))
	for i, r := range results {
		if !j.intervals() {
			r.Interval = stats.Interval{Value: r.Value, Low: math.NaN(), High: math.NaN(), Samples: r.Samples}
		}
		if out[i], err = valueOf(r.Name, r.Interval); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// intervals says whether values have them: without resamples, none has.
func (j *meterJudge) intervals() bool { return j.resampling.Resamples > 0 }

func (j *meterJudge) Metrics() []report.Metric {
	var out []report.Metric
	for _, m := range j.meter.Measures() {
		if how, _, ok := strings.Cut(m.Note, " Interval from "); ok && !j.intervals() {
			m.Note = how + " No interval."
		}
		out = append(out, report.Metric{Name: m.Name, Convention: j.meter.Standard.Name, Higher: m.Higher, Note: m.Note, Counterpart: m.Counterpart})
	}
	return out
}
