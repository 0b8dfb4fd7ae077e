package eval

import (
	"fmt"
	"math"
	"strings"

	"fewstep/distill"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/stats"
)

// measure computes every metric of a set of images and their captions.
func (p *protocol) measure(images []metric.Features, texts [][]float64) ([]values, error) {
	opt := p.resampling()
	whole, err := p.ruler.Whole(images, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metric.Whole, err)
	}
	patch, err := p.ruler.Patch(images, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metric.Patch, err)
	}
	scores := make([]float64, len(images))
	for i := range images {
		scores[i] = metric.Similarity(images[i].Whole.Embedding, texts[i])
	}
	score, err := meanOf(scores, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metric.Score, err)
	}
	return []values{valuesOf(metric.Whole, whole), valuesOf(metric.Patch, patch), valuesOf(metric.Score, score)}, nil
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

func valuesOf(name string, iv stats.Interval) values {
	v := values{Metric: name, Value: iv.Value, Samples: iv.Samples}
	if !math.IsNaN(iv.Low) {
		low, high := min(iv.Low, iv.Value), max(iv.High, iv.Value)
		v.Low, v.High = &low, &high
	}
	return v
}

// add appends a model's rows and, where it has pictures, its column.
func (t *Table) add(c Column, all []values) {
	t.results = append(t.results, result{c, all})
	for _, v := range all {
		row := report.Row{Model: c.Model, Steps: c.Steps, Calls: c.Calls, Kind: c.Kind, Metric: v.Metric, Convention: metric.Convention,
			Value: v.Value, Low: math.NaN(), High: math.NaN(), Samples: v.Samples}
		if v.Low != nil && v.High != nil {
			row.Low, row.High = *v.Low, *v.High
		}
		t.Rows = append(t.Rows, row)
	}
	if len(c.Pictures) > 0 {
		t.Columns = append(t.Columns, c)
	}
}

func (p *protocol) metrics() []report.Metric {
	const how = "Fréchet distance in features of the pipeline's own CLIP, not FID: the image embedding on its 32 leading principal axes, and the logarithms of the first hidden state's deviations over the patches, less their mean, on 16, each part scaled to a total variance of 1 on the real images. "
	interval := "No interval."
	if p.settings.Bootstrap > 0 {
		interval = fmt.Sprintf("95 %% interval of %d random halves of the samples.", p.settings.Bootstrap)
	}
	return []report.Metric{
		{Name: metric.Whole, Convention: metric.Convention, Note: how + "Whole images. " + interval},
		{Name: metric.Patch, Convention: metric.Convention, Note: how + "The central quarter of each image's area, enlarged twice by repeating pixels. " + interval},
		{Name: metric.Score, Convention: metric.Convention, Higher: true, Note: "Cosine of image and caption in the pipeline's own CLIP × 100, clamped at 0, mean over images. Its text encoder is the one the model was trained with."},
	}
}

func (p *protocol) facts(c *distill.Config) []report.Fact {
	distinct := map[string]bool{}
	for _, s := range p.prompts {
		distinct[s] = true
	}
	return []report.Fact{
		{Name: "Protocol", Value: fmt.Sprintf("mini: %d prompts drawn from all rows as in training (fine %g, kind %g, coarse %g), %d of them distinct; one image each, the same noise per prompt for every model", len(p.prompts), c.Data.Captions.Fine, c.Data.Captions.Kind, c.Data.Captions.Coarse, len(distinct))},
		{Name: "Real images", Value: fmt.Sprintf("distances are measured from the training rows of %s by their weights; the floor is %d draws of the held-out rows", c.Data.Source, len(p.real))},
		{Name: "Images", Value: fmt.Sprintf("%d×%d pixels, rounded to 8 bits", p.resolution, p.resolution)},
		{Name: "Teacher", Value: fmt.Sprintf("%d Euler steps on the trailing grid, guidance %g", c.Eval.TeacherSteps, c.Eval.Guidance)},
		{Name: "Undistilled", Value: "the same network at " + numbers(c.Eval.Steps) + " steps, with that guidance and without"},
		{Name: "Seed", Value: fmt.Sprint(c.Eval.Seed)},
	}
}

func numbers(n []int) string {
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(n), "[]")), ", ")
}
