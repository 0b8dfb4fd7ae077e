package eval

import (
	"fmt"
	"image"
	"runtime"
	"strings"

	"fewstep/data/images"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/stats"
)

// miniJudge is the convention mini-clip: the features of the CLIPModel beside the pipeline, the sharpness of pixels, the
// distance from the teacher's images and, as a second opinion, an independent network.
type miniJudge struct {
	net         *metric.Network
	independent *metric.Independent // nil without one
	resampling  stats.Resampling
	started     func(metric string) // called before each metric is computed; may be nil

	// Of the real images, once there are some.
	ruler  *metric.Ruler
	energy float64 // mean Laplacian energy
}

// look is what the convention sees in an image.
type look struct {
	metric.Features
	Energy      float64   // of its Laplacian
	Independent []float32 `json:"-"` // nil without an independent network
	small       []byte    // its pixels, for comparing it with the teacher's
}

// compared is how many of a row's first images are compared with the teacher's, and smallSide how large these are kept.
const (
	compared  = 512
	smallSide = 64
)

func (j *miniJudge) Free() {
	j.net.Free()
	if j.independent != nil {
		j.independent.Free()
	}
}

func (j *miniJudge) AnySize() bool { return false }

// AtOnce: the distance in an independent network keeps a few cores busy for some ten seconds.
func (j *miniJudge) AtOnce() int { return min(max(runtime.GOMAXPROCS(0)/4, 1), 4) }

// Warnings are none: the page warns of few samples itself.
func (j *miniJudge) Warnings(int) []string { return nil }

func (j *miniJudge) Features(all []*image.NRGBA) ([]Features, error) {
	if len(all) == 0 {
		return nil, nil
	}
	side, values := all[0].Rect.Dx(), make([][]float32, len(all))
	for i, img := range all {
		if img.Rect.Dx() != side || img.Rect.Dy() != side {
			return nil, fmt.Errorf("an image of %v pixels among images of %d×%d: they must be square and of one size", img.Rect.Size(), side, side)
		}
		values[i] = unitValues(img)
	}
	found, err := j.net.Features(values, side)
	if err != nil {
		return nil, err
	}
	var independent [][]float32
	if j.independent != nil {
		whole := make([]images.RGB, len(all))
		for i, img := range all {
			whole[i] = images.FromImage(img)
		}
		if independent, err = j.independent.Look(whole); err != nil {
			return nil, err
		}
	}
	out := make([]Features, len(found))
	for i, f := range found {
		l := look{Features: f, Energy: metric.LaplacianEnergy(all[i]), small: metric.Thumbnail(all[i], smallSide)}
		if independent != nil {
			l.Independent = independent[i]
		}
		out[i] = l
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
	looks := looksOf(real)
	if j.ruler, err = metric.NewRuler(miniFeatures(looks)); err != nil {
		return err
	}
	j.energy = 0
	for _, l := range looks {
		j.energy += l.Energy / float64(len(looks))
	}
	if j.independent == nil {
		return nil
	}
	return j.independent.Refer(independents(looks))
}

func looksOf(all []Features) []look {
	out := make([]look, len(all))
	for i, f := range all {
		out[i] = f.(look)
	}
	return out
}

func miniFeatures(all []look) []metric.Features {
	out := make([]metric.Features, len(all))
	for i, l := range all {
		out[i] = l.Features
	}
	return out
}

func independents(all []look) [][]float32 {
	out := make([][]float32, len(all))
	for i, l := range all {
		out[i] = l.Independent
	}
	return out
}

func (j *miniJudge) Measure(made []Features, captions Captions, teacher []Features) ([]Value, error) {
	looks, texts := looksOf(made), captions.(miniCaptions)
	if len(looks) != len(texts.prompts) {
		return nil, fmt.Errorf("%d images and %d captions: each image needs its caption", len(looks), len(texts.prompts))
	}
	features, opt := miniFeatures(looks), j.resampling
	var out []Value
	var failure error
	add := func(name string, measure func() (stats.Interval, error)) {
		if failure != nil {
			return
		}
		if j.started != nil {
			j.started(name)
		}
		iv, err := measure()
		if err == nil {
			var v Value
			v, err = valueOf(name, iv)
			out = append(out, v)
		}
		if err != nil {
			failure = fmt.Errorf("%s: %w", name, err)
		}
	}
	mean := func(name string, n int, value func(i int) float64) {
		add(name, func() (stats.Interval, error) {
			values := make([]float64, n)
			for i := range values {
				values[i] = value(i)
			}
			return metric.Mean(values, opt)
		})
	}
	if j.ruler != nil {
		add(metric.Whole, func() (stats.Interval, error) { return j.ruler.Whole(features, opt) })
		add(metric.Patch, func() (stats.Interval, error) { return j.ruler.Patch(features, opt) })
		if j.independent != nil {
			add(j.independent.Measure().Name, func() (stats.Interval, error) { return j.independent.Distance(independents(looks), opt) })
		}
		if stats.Diverse(texts.prompts) {
			add(metric.Diversity, func() (stats.Interval, error) { return j.ruler.Diversity(features, texts.prompts, opt) })
		}
	}
	mean(metric.Score, len(looks), func(i int) float64 { return metric.Similarity(looks[i].Whole.Embedding, texts.embedded[i]) })
	if j.ruler != nil {
		add(metric.Sharpness, func() (stats.Interval, error) {
			energies := make([]float64, len(looks))
			for i, l := range looks {
				energies[i] = l.Energy
			}
			return metric.RelativeSharpness(energies, j.energy, opt)
		})
	}
	if teacher != nil {
		of := looksOf(teacher)
		n := min(len(of), len(looks))
		for i := range n {
			if len(of[i].small) != len(looks[i].small) {
				return nil, fmt.Errorf("image %d and the teacher's differ in size", i)
			}
		}
		mean(metric.TeacherPixels, n, func(i int) float64 { return metric.RMS(looks[i].small, of[i].small) })
		mean(metric.TeacherFeatures, n, func(i int) float64 { return metric.Similarity(looks[i].Whole.Embedding, of[i].Whole.Embedding) })
	}
	return out, failure
}

func (j *miniJudge) Metrics() []report.Metric {
	const how = "Fréchet distance in features of the pipeline's own CLIP, not FID: the image embedding on its 32 leading principal axes, and the logarithms of the first hidden state's deviations over the patches, less their mean, on 16, each part scaled to a total variance of 1 on the real images. "
	interval, bootstrap := "No interval.", "No interval."
	if j.resampling.Resamples > 0 {
		bootstrap = fmt.Sprintf("95 %% interval of the bootstrap over prompts, %d resamples.", j.resampling.Resamples)
		interval = fmt.Sprintf("95 %% interval of %d random halves of the samples.", j.resampling.Resamples)
	}
	score := report.Metric{Name: metric.Score, Convention: metric.Convention, Higher: true, Counterpart: "CLIP score", Note: "Cosine of image and caption in the pipeline's own CLIP × 100, clamped at 0, mean over images. Its text encoder is the one the model was trained with."}
	of := fmt.Sprintf("the teacher's image of the same prompt and noise, mean over the first %d prompts or fewer", compared)
	teacher := []report.Metric{
		{Name: metric.TeacherPixels, Convention: metric.Convention, Diagnostic: true, Note: fmt.Sprintf("Root mean square difference from %s, in grey levels of 255, of images averaged down to %d pixels a side where they are larger. How well the model follows its teacher; a model may be good and differ.", of, smallSide)},
		{Name: metric.TeacherFeatures, Convention: metric.Convention, Higher: true, Diagnostic: true, Note: "Cosine × 100 of the pipeline's CLIP of the image and of " + of + "."},
	}
	if j.ruler == nil {
		return append([]report.Metric{score}, teacher...)
	}
	out := []report.Metric{
		{Name: metric.Whole, Convention: metric.Convention, Counterpart: "FID-Whole", Note: how + "Whole images. " + interval},
		{Name: metric.Patch, Convention: metric.Convention, Counterpart: "FID-Patch", Note: how + "The central quarter of each image's area, enlarged twice by repeating pixels. " + interval},
	}
	if j.independent != nil {
		m := j.independent.Measure()
		out = append(out, report.Metric{Name: m.Name, Convention: metric.Convention, Counterpart: "FID-Whole", Note: m.Note})
	}
	out = append(out,
		report.Metric{Name: metric.Diversity, Convention: metric.Convention, Higher: true, Note: "Mean distance between images of one prompt, over the prompts that have several, 1 being the distance of two random real images; in the features of FD-Whole. " + bootstrap},
		score,
		report.Metric{Name: metric.Sharpness, Convention: metric.Convention, Ideal: 1, Diagnostic: true, Note: "Mean variance of the images' Laplacian (four neighbours, luma) as a multiple of the real images': below 1 blurred, above 1 noisy. " + strings.Replace(bootstrap, "over prompts", "over images", 1)},
	)
	return append(out, teacher...)
}
