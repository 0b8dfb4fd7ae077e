package eval

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/feed"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
)

// sheetNoise numbers the noise of prompts that stand on the sheet only.
const sheetNoise = int64(1) << 40

// protocol is what all rows of a table share. Image i is made for prompt i from noise (seed, i), whatever the batch,
// the model or the device.
type protocol struct {
	settings   configs.Eval
	resolution int
	prompts    []string
	judge      Judge
	captions   Captions // of prompts
	floor      []Value  // of real images measured against the others; nil without
	held       *heldOut // these images; nil without

	sheetPrompts []string // the first prompts, or others that are drawn for the sheet alone

	facts    []report.Fact
	identity string // digest of the real images that distances are measured from; "" = none
	digest   string // of everything above that decides a row's numbers
}

// heldOut are the real images of the floor: rows, which may repeat, each with the caption that it is compared with.
type heldOut struct {
	set      imageSource
	rows     []int
	captions []string
}

func (p *protocol) sheetOfPrompts() bool { return len(p.settings.SheetPrompts) == 0 }

// chosen lists the rows and captions of n samples, by the rows' weights and the captions' probabilities.
func chosen(set *data.Set, c *configs.Recipe, n int) (rows []int, captions []string, err error) {
	order, err := set.Order(data.OrderOptions{Seed: c.Eval.Seed, Fine: c.Data.Captions.Fine, Kind: c.Data.Captions.Kind, Coarse: c.Data.Captions.Coarse})
	if err != nil {
		return nil, nil, err
	}
	for k := range int64(n) {
		rows, captions = append(rows, order.Row(k)), append(captions, order.Caption(k))
	}
	return rows, captions, nil
}

// prepare chooses the prompts and measures the real images.
func (s *Spec) prepare(ctx context.Context, judge Judge) (*protocol, error) {
	p := &protocol{settings: s.Config.Eval, resolution: s.Config.Data.Resolution, judge: judge}
	var reference []Features
	var err error
	if s.Captions == nil {
		reference, err = s.mini(ctx, p)
	} else {
		reference, err = s.listed(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	if p.captions, err = judge.Captions(p.prompts); err != nil {
		return nil, err
	}
	if p.sheetPrompts = p.settings.SheetPrompts; p.sheetOfPrompts() {
		p.sheetPrompts = p.prompts[:min(p.settings.SheetSamples, len(p.prompts))]
	}
	for _, w := range judge.Warnings(len(p.prompts)) {
		s.warn("%s", w)
		p.facts = append(p.facts, report.Fact{Name: "Mind", Value: w})
	}
	p.facts = append(p.facts,
		report.Fact{Name: "Images", Value: fmt.Sprintf("%d×%d pixels, rounded to 8 bits; drawn in %s", p.resolution, p.resolution, s.drawer().Compute)},
		report.Fact{Name: "Seed", Value: fmt.Sprint(p.settings.Seed)})
	p.facts = append(p.facts, s.facts...)
	if s.Base != nil {
		p.facts = append(p.facts,
			report.Fact{Name: "Teacher", Value: fmt.Sprintf("%d Euler steps on the trailing grid, guidance %g", p.settings.TeacherSteps, p.settings.Guidance)},
			report.Fact{Name: "Undistilled", Value: "the same network at " + numbers(p.settings.Steps) + " steps, with that guidance and without"})
	}
	settings := p.settings
	settings.Steps, settings.Rivals = nil, nil // they choose rows and decide none
	ruler, err := s.ruler(ctx, reference)
	if err != nil {
		return nil, err
	}
	p.digest, err = digest(settings, judge.Metrics(), p.resolution, s.Convention, s.Sources, s.ReferenceStats, p.prompts, p.sheetPrompts, p.identity, ruler, s.drawer().Compute.String())
	return p, err
}

// ruler identifies the networks that measure, so that rows of two machines are known to be of one protocol though these
// compute in other orders: by the weights of the pipeline's CLIP, for other conventions by what they see in real images.
func (s *Spec) ruler(ctx context.Context, reference []Features) (any, error) {
	if s.Convention != "" && s.Convention != metric.Convention {
		return ends(reference), nil
	}
	files, err := weights.ModelFiles(filepath.Join(s.Pipeline.Dir, "clip"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var sums []string
	for _, path := range files {
		sum, err := weights.HashFile(ctx, path)
		if err != nil {
			return nil, err
		}
		sums = append(sums, sum)
	}
	return sums, nil
}

// ends stand for a whole reference in a digest.
func ends(v []Features) []Features {
	if len(v) == 0 {
		return nil
	}
	return []Features{v[0], v[len(v)-1]}
}

// mini draws prompts from all rows of the data set. The training rows are what distances are measured from, and the
// floor is the held-out ones, so that no image is compared with itself. A data set with a split "reference" says better
// what is wanted: prompts are drawn from the held-out rows, and distances are measured from that split, which has their
// distribution.
func (s *Spec) mini(ctx context.Context, p *protocol) (reference []Features, err error) {
	c := s.Config
	path := c.SourcePath()
	all, err := data.Open(ctx, path, data.Options{MaxBad: c.Data.MaxBad})
	if err != nil {
		return nil, err
	}
	train, err := data.Open(ctx, path, data.Options{Split: "train", MaxBad: c.Data.MaxBad})
	if err != nil {
		return nil, err
	}
	held, err := data.Open(ctx, path, data.Options{Split: "eval", MaxBad: c.Data.MaxBad})
	if err != nil {
		return nil, err
	}
	source, measured, drawn := all, "training rows", "all rows as in training"
	if other, err := all.Only("reference"); err == nil {
		train, source, measured, drawn = other, held, "rows of the split reference", "the held-out rows"
	}
	if _, p.prompts, err = chosen(source, c, c.Eval.Samples); err != nil {
		return nil, err
	}
	total := train.Len() + held.Len()
	s.report(Progress{Model: "real images", Total: total})
	epoch, err := train.Order(data.OrderOptions{Seed: c.Eval.Seed})
	if err != nil {
		return nil, err
	}
	order := make([]int, epoch.Len())
	for k := range order {
		order[k] = epoch.Row(int64(k))
	}
	if reference, err = measureReal(ctx, p.judge, train, order, p.resolution, func(done int) { s.report(Progress{Model: "real images", Done: done, Total: total}) }); err != nil {
		return nil, err
	}
	if err := p.judge.Refer(reference); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	rows, captions, err := chosen(held, c, c.Eval.Samples)
	if err != nil {
		return nil, err
	}
	real, err := measureReal(ctx, p.judge, held, rows, p.resolution, func(done int) {
		s.report(Progress{Model: "real images", Done: min(train.Len()+done, total), Total: total})
	})
	if err != nil {
		return nil, err
	}
	texts, err := p.judge.Captions(captions)
	if err != nil {
		return nil, err
	}
	if p.floor, err = p.judge.Measure(real, texts, nil); err != nil {
		return nil, err
	}
	p.floor, p.held = floorValues(p.floor), &heldOut{held, rows, captions}
	sum, err := all.Digest()
	if err != nil {
		return nil, err
	}
	p.identity = sum
	distinct := map[string]bool{}
	for _, prompt := range p.prompts {
		distinct[prompt] = true
	}
	p.facts = []report.Fact{
		{Name: "Protocol", Value: fmt.Sprintf("mini: %d prompts drawn from %s (fine %g, kind %g, coarse %g), %d of them distinct; one image each, the same noise per prompt for every model", len(p.prompts), drawn, c.Data.Captions.Fine, c.Data.Captions.Kind, c.Data.Captions.Coarse, len(distinct))},
		{Name: "Real images", Value: fmt.Sprintf("distances are measured from the %s of %s by their weights; the floor is %d draws of the held-out rows", measured, c.Data.Source, len(real))},
		{Name: "Captioned images", Value: fmt.Sprintf("%d rows, sha256 of keys, captions and images %s", all.Len(), sum)},
	}
	return reference, nil
}

// floorValues leaves the diversity out: rows are drawn more than once, and an image does not differ from itself.
func floorValues(all []Value) []Value {
	return slices.DeleteFunc(all, func(v Value) bool { return strings.HasPrefix(v.Metric, metric.Diversity) })
}

// listed takes the prompts from a list of captions and the real images from wherever Reference says.
func (s *Spec) listed(ctx context.Context, p *protocol) (reference []Features, err error) {
	p.prompts = s.Captions.Texts
	if len(p.prompts) < 4 {
		return nil, fmt.Errorf("%s has %d captions; measure at least 4 images", s.Captions.Path, len(p.prompts))
	}
	p.facts = []report.Fact{
		{Name: "Protocol", Value: fmt.Sprintf("%s: %s; %s, the same noise per prompt for every model", s.Captions.Protocol, s.Captions.What, s.Captions.each())},
		{Name: "Captions", Value: fmt.Sprintf("%s, sha256 %s", s.Captions.Path, s.Captions.SHA256)},
	}
	if len(s.ReferenceStats) > 0 {
		p.facts = append(p.facts, report.Fact{Name: "Real images", Value: "saved statistics: " + strings.Join(s.ReferenceStats, ", ")})
		return nil, nil
	}
	if s.Reference == "" {
		p.facts = append(p.facts, report.Fact{Name: "Real images", Value: "none were given, so there are no distances from them"})
		return nil, nil
	}
	reference, sum, err := s.real(ctx, p)
	if err != nil {
		return nil, err
	}
	p.identity = sum
	p.facts = append(p.facts, report.Fact{Name: "Real images", Value: fmt.Sprintf("%d of %s, sha256 of their files in order %s", len(reference), s.Reference, sum)})
	if err := p.judge.Refer(reference); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Reference, err)
	}
	return reference, nil
}

// measureReal returns the features of a set's rows in the given order; rows may repeat and are looked at once.
func measureReal(ctx context.Context, judge Judge, set imageSource, rows []int, resolution int, looked func(done int)) ([]Features, error) {
	at := map[int]int{}
	var distinct []int
	for _, r := range rows {
		if _, ok := at[r]; !ok {
			at[r] = len(distinct)
			distinct = append(distinct, r)
		}
	}
	var features []Features
	const chunk = 64 // images held at a time
	for start := 0; start < len(distinct); start += chunk {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rows := distinct[start:min(start+chunk, len(distinct))]
		images, failed := make([]*image.NRGBA, len(rows)), make([]error, len(rows))
		feed.Each(len(rows), func(i int) {
			v, err := set.Image(rows[i], resolution)
			if failed[i] = err; err == nil {
				images[i] = sample.Image(v, pipeline.Square(resolution))
			}
		})
		if err := errors.Join(failed...); err != nil {
			return nil, err
		}
		f, err := judge.Features(images)
		if err != nil {
			return nil, err
		}
		features = append(features, f...)
		looked(len(features))
	}
	out := make([]Features, len(rows))
	for i, r := range rows {
		out[i] = features[at[r]]
	}
	return out, nil
}

func digest(v ...any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

func numbers(n []int) string {
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(n), "[]")), ", ")
}
