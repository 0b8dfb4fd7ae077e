package eval

import (
	"fmt"
	"image"
	"math"

	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/stats"
)

// Judge turns images into numbers by one convention. All rows of a table have the same judge.
//
// Images are of 8 bits, as a PNG file holds them, so that kept images give the same numbers as fresh ones. Features is
// called from one goroutine at a time, beside the drawing of the next images.
type Judge interface {
	// Metrics explains the metrics, in the order of Measure's values.
	Metrics() []report.Metric
	// AnySize says whether Features takes images of any size, so that real images are shown as they are. Others are shown
	// the centre square of each, at the size of the generated ones.
	AnySize() bool
	// Features looks at images, in order.
	Features(images []*image.NRGBA) ([]Features, error)
	// Captions encodes what images are to be compared with.
	Captions(captions []string) (Captions, error)
	// Refer takes the real images that distances are measured from.
	Refer(real []Features) error
	// Measure returns the values of images, of which image i was made for caption i. Without a reference there are no
	// distances among them. It is called from one goroutine at a time, beside Features of the next images.
	Measure(images []Features, captions Captions) ([]Value, error)
	// Warnings say why numbers of so many images should not be trusted.
	Warnings(images int) []string
	// Free gives device memory back.
	Free()
}

// Features is what one image gives to its judge, Captions what a list of captions gives. Both belong to the judge.
type (
	Features any
	Captions any
)

// Value is one number; without an interval Low and High are nil.
type Value struct {
	Metric    string   `json:"metric"`
	Value     float64  `json:"value"`
	Low, High *float64 `json:",omitempty"`
	Samples   int      `json:"samples"`

	// Influences of samples on the value, by which it is compared with that of another row (see [stats.Difference]).
	Influences []float32 `json:"influences,omitempty"`
}

func valueOf(name string, iv stats.Interval) (Value, error) {
	if math.IsNaN(iv.Value) || math.IsInf(iv.Value, 0) {
		return Value{}, fmt.Errorf("%s of %d images is %v, which is not a number to report", name, iv.Samples, iv.Value)
	}
	v := Value{Metric: name, Value: iv.Value, Samples: iv.Samples}
	if !math.IsNaN(iv.Low) {
		low, high := min(iv.Low, iv.Value), max(iv.High, iv.Value)
		v.Low, v.High = &low, &high
	}
	for _, x := range iv.Influences {
		v.Influences = append(v.Influences, float32(x))
	}
	return v, nil
}

// miniJudge is the convention mini-clip: the features of the CLIPModel beside the pipeline.
type miniJudge struct {
	net        *metric.Network
	ruler      *metric.Ruler // nil without a reference
	resampling stats.Resampling
	started    func(metric string) // called before each metric is computed; may be nil
}

func (j *miniJudge) Free()         { j.net.Free() }
func (j *miniJudge) AnySize() bool { return false }

// Warnings are none: the page warns of few samples itself.
func (j *miniJudge) Warnings(int) []string { return nil }

func (j *miniJudge) Features(images []*image.NRGBA) ([]Features, error) {
	if len(images) == 0 {
		return nil, nil
	}
	side, values := images[0].Rect.Dx(), make([][]float32, len(images))
	for i, img := range images {
		if img.Rect.Dx() != side || img.Rect.Dy() != side {
			return nil, fmt.Errorf("an image of %v pixels among images of %d×%d: they must be square and of one size", img.Rect.Size(), side, side)
		}
		values[i] = unitValues(img)
	}
	found, err := j.net.Features(values, side)
	if err != nil {
		return nil, err
	}
	out := make([]Features, len(found))
	for i, f := range found {
		out[i] = f
	}
	return out, nil
}

// unitValues is an image as [H·W·3] in [−1, 1].
func unitValues(img *image.NRGBA) []float32 {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	out := make([]float32, 0, w*h*3)
	for y := range h {
		row := img.Pix[y*img.Stride:]
		for x := range w {
			for _, level := range row[4*x : 4*x+3] {
				out = append(out, float32(float64(level)/127.5-1))
			}
		}
	}
	return out
}

// miniCaptions are prompts and their embeddings.
type miniCaptions struct {
	prompts  []string
	embedded [][]float64
}

func (j *miniJudge) Captions(captions []string) (Captions, error) {
	embedded, err := j.net.Text(captions)
	return miniCaptions{captions, embedded}, err
}

func (j *miniJudge) Refer(real []Features) (err error) {
	j.ruler, err = metric.NewRuler(miniFeatures(real))
	return err
}

func miniFeatures(all []Features) []metric.Features {
	out := make([]metric.Features, len(all))
	for i, f := range all {
		out[i] = f.(metric.Features)
	}
	return out
}

func (j *miniJudge) Measure(images []Features, captions Captions) ([]Value, error) {
	features, texts := miniFeatures(images), captions.(miniCaptions)
	if len(features) != len(texts.prompts) {
		return nil, fmt.Errorf("%d images and %d captions: each image needs its caption", len(features), len(texts.prompts))
	}
	var out []Value
	add := func(name string, measure func() (stats.Interval, error)) error {
		if j.started != nil {
			j.started(name)
		}
		iv, err := measure()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		v, err := valueOf(name, iv)
		out = append(out, v)
		return err
	}
	if j.ruler != nil {
		if err := add(metric.Whole, func() (stats.Interval, error) { return j.ruler.Whole(features, j.resampling) }); err != nil {
			return nil, err
		}
		if err := add(metric.Patch, func() (stats.Interval, error) { return j.ruler.Patch(features, j.resampling) }); err != nil {
			return nil, err
		}
		if stats.Diverse(texts.prompts) {
			if err := add(metric.Diversity, func() (stats.Interval, error) { return j.ruler.Diversity(features, texts.prompts, j.resampling) }); err != nil {
				return nil, err
			}
		}
	}
	scores := make([]float64, len(features))
	for i := range features {
		scores[i] = metric.Similarity(features[i].Whole.Embedding, texts.embedded[i])
	}
	return out, add(metric.Score, func() (stats.Interval, error) { return meanOf(scores, j.resampling) })
}

func meanOf(v []float64, opt stats.Resampling) (stats.Interval, error) {
	if opt.Resamples > 0 {
		return stats.MeanInterval(v, opt)
	}
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return stats.Interval{Value: sum / float64(len(v)), Low: math.NaN(), High: math.NaN(), Samples: len(v)}, nil
}

func (j *miniJudge) Metrics() []report.Metric {
	const how = "Fréchet distance in features of the pipeline's own CLIP, not FID: the image embedding on its 32 leading principal axes, and the logarithms of the first hidden state's deviations over the patches, less their mean, on 16, each part scaled to a total variance of 1 on the real images. "
	interval, bootstrap := "No interval.", "No interval."
	if j.resampling.Resamples > 0 {
		bootstrap = fmt.Sprintf("95 %% interval of the bootstrap over prompts, %d resamples.", j.resampling.Resamples)
		interval = fmt.Sprintf("95 %% interval of %d random halves of the samples.", j.resampling.Resamples)
	}
	score := report.Metric{Name: metric.Score, Convention: metric.Convention, Higher: true, Counterpart: "CLIP score", Note: "Cosine of image and caption in the pipeline's own CLIP × 100, clamped at 0, mean over images. Its text encoder is the one the model was trained with."}
	if j.ruler == nil {
		return []report.Metric{score}
	}
	return []report.Metric{
		{Name: metric.Whole, Convention: metric.Convention, Counterpart: "FID-Whole", Note: how + "Whole images. " + interval},
		{Name: metric.Patch, Convention: metric.Convention, Counterpart: "FID-Patch", Note: how + "The central quarter of each image's area, enlarged twice by repeating pixels. " + interval},
		{Name: metric.Diversity, Convention: metric.Convention, Higher: true, Note: "Mean distance between images of one prompt, over the prompts that have several, 1 being the distance of two random real images; in the features of FD-Whole. " + bootstrap},
		score,
	}
}
