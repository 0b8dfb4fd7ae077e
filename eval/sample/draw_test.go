package sample_test

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/internal/xla"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/tinypipeline"

	"github.com/gomlx/compute/dtypes"
)

// studio is a tiny model that is ready to draw.
type studio struct {
	e     *engine.Engine
	p     *pipeline.Pipeline
	model *engine.Params
	text  []family.Conditions
}

func open(t *testing.T) *studio {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	if err := tinypipeline.Model(dir, "../../model/clip/testdata"); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("XLA_FLAGS") == "" {
		t.Setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
	}
	rt, err := xla.Open(xla.Auto, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	s := &studio{e: engine.New(rt.Backend, dtypes.Float32, nn.Network)}
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s.p, err = pipeline.Open(dir)
	fail(err)
	specs, err := s.p.UNetSpecs(rt.Backend, nil)
	fail(err)
	values, err := pipeline.Read(dir, "unet")
	fail(err)
	s.model, err = s.e.Load(specs, values, nil)
	fail(err)
	enc, err := encoder.Load(s.p, s.e, 2, encoder.TextPart)
	fail(err)
	defer enc.Free()
	s.text, err = enc.Text([]string{"red disc", "blue square", "green disc"})
	fail(err)
	return s
}

func (s *studio) draw(t *testing.T, text []family.Conditions, o sample.Options) [][]float32 {
	t.Helper()
	if o.Steps == 0 {
		o.Steps = 3
	}
	if o.Size == (pipeline.Size{}) {
		o.Size = s.p.Native()
	}
	if o.Batch == 0 {
		o.Batch = 2
	}
	z, err := sample.Latents(context.Background(), s.e, s.p, s.model, text, o)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// apart is the largest difference of two latents.
func apart(a, b []float32) (d float64) {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		d = max(d, math.Abs(float64(a[i])-float64(b[i])))
	}
	return d
}

func TestLatents(t *testing.T) {
	s := open(t)
	calls := 0
	all := s.draw(t, s.text, sample.Options{Guidance: 3, Seed: 4, Progress: func(done, total int) {
		if calls++; done != calls || total != 6 {
			t.Errorf("step %d of %d after %d calls", done, total, calls)
		}
	}})
	if len(all) != 3 || calls != 6 {
		t.Fatalf("%d latents, %d steps", len(all), calls)
	}
	same := func(what string, got []float32, k int) {
		t.Helper()
		if d := apart(got, all[k]); !(d < 1e-4) {
			t.Errorf("%s: %g from picture %d", what, d, k)
		}
	}
	other := func(what string, got []float32, k int) {
		t.Helper()
		if d := apart(got, all[k]); !(d > 1e-3) {
			t.Errorf("%s: only %g from picture %d", what, d, k)
		}
	}
	base := sample.Options{Guidance: 3, Seed: 4}
	with := func(change func(*sample.Options)) sample.Options {
		o := base
		change(&o)
		return o
	}
	last := s.text[2:]
	same("by itself", s.draw(t, last, with(func(o *sample.Options) { o.First = 2 }))[0], 2)
	noise := [][]float32{sample.Noise(s.p, 4, 2, s.p.Native())}
	same("from given noise", s.draw(t, last, with(func(o *sample.Options) { o.Noise = noise }))[0], 2)
	zeros := family.Conditions{family.Text: make([]float32, len(last[0][family.Text])), family.Pooled: make([]float32, len(last[0][family.Pooled]))}
	same("zeros as the negative", s.draw(t, last, with(func(o *sample.Options) { o.Noise, o.Negative = noise, zeros }))[0], 2)
	same("own size told", s.draw(t, last, with(func(o *sample.Options) { o.Noise, o.TimeIDs = noise, pipeline.TimeIDs(s.p.Native()) }))[0], 2)
	other("another negative", s.draw(t, last, with(func(o *sample.Options) { o.Noise, o.Negative = noise, s.text[0] }))[0], 2)
	other("another size told", s.draw(t, last, with(func(o *sample.Options) { o.Noise, o.TimeIDs = noise, pipeline.TimeIDs(pipeline.Square(99)) }))[0], 2)
	euler, err := scheduler.Euler.PlanBy(s.p.Scheduler, s.p.Schedule, s.p.Prediction, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	other("another sampler", s.draw(t, last, with(func(o *sample.Options) { o.Noise, o.Plan = noise, euler }))[0], 2)
	other("another number", s.draw(t, last, base)[0], 2)
	// Guided by itself, or by nothing, a picture is the unguided one.
	plain := s.draw(t, last, sample.Options{Noise: noise})[0]
	if d := apart(plain, s.draw(t, last, with(func(o *sample.Options) { o.Noise, o.Negative = noise, last[0] }))[0]); !(d < 1e-4) {
		t.Errorf("guidance away from the prompt itself changes the picture by %g", d)
	}
	other("unguided", plain, 2)
}

// TestQueue: a batch is drawn without waiting for the device, and is what Latents draws.
// Block by block, where a guided step is one call of twice the batch, pictures are those of whole networks, also with an
// encoded negative prompt; away from other micro-conditions it is two calls.
func TestLatentsInBlocks(t *testing.T) {
	s := open(t)
	plain, encoded := sample.Options{Guidance: 3, Seed: 4}, sample.Options{Guidance: 3, Seed: 4, Negative: s.text[0]}
	other := sample.Options{Guidance: 3, Seed: 4, NegativeID: pipeline.TimeIDs(pipeline.Square(99))}
	all := []sample.Options{plain, encoded, other}
	whole, runs := make([][][]float32, len(all)), make([]int, len(all))
	for i, o := range all {
		whole[i] = s.draw(t, s.text, o)
	}
	s.e = engine.New(s.e.Backend, dtypes.Float32, nn.Layer)
	for i, o := range all {
		before := s.e.Runs()
		blocks := s.draw(t, s.text, o)
		runs[i] = int(s.e.Runs() - before)
		for k := range blocks {
			if d := apart(whole[i][k], blocks[k]); !(d < 1e-4) {
				t.Errorf("picture %d of drawing %d is %g apart", k, i, d)
			}
		}
	}
	if runs[2] < 3*runs[0]/2 || runs[1] >= 3*runs[0]/2 {
		t.Errorf("%d programs were run for guided steps, %d for those from a negative prompt, %d from other sizes", runs[0], runs[1], runs[2])
	}
}

// In bf16, weights may be kept in bf16: the pictures are the same to the bit, at every granularity.
func TestLatentsFromNarrowWeights(t *testing.T) {
	s := open(t)
	values, err := pipeline.Read(s.p.Dir, "unet")
	if err != nil {
		t.Fatal(err)
	}
	specs := s.model.Specs
	for _, level := range []nn.Level{nn.Network, nn.Layer} {
		var drawn [2][][]float32
		for i, kept := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
			s.e = engine.New(s.e.Backend, dtypes.BFloat16, level)
			s.e.Frozen = kept
			if s.model, err = s.e.Load(specs, values, nil); err != nil {
				t.Fatal(err)
			}
			drawn[i] = s.draw(t, s.text, sample.Options{Guidance: 3, Seed: 4})
			s.model.FreeAll()
		}
		for k := range drawn[0] {
			if d := apart(drawn[0][k], drawn[1][k]); d != 0 {
				t.Errorf("level %v: picture %d is %g apart", level, k, d)
			}
		}
	}
}

func TestQueue(t *testing.T) {
	s := open(t)
	o := sample.Options{Steps: 3, Guidance: 3, Seed: 4, Size: s.p.Native(), Batch: 2}
	want := s.draw(t, s.text[:2], o)
	before := s.e.Waits()
	p, err := sample.Queue(t.Context(), s.e, s.p, s.model, s.text[:2], o)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.e.Waits() - before; n != 0 {
		t.Errorf("queueing waited for %d arrays", n)
	}
	got, err := p.Latents()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || apart(got[0], want[0]) != 0 || apart(got[1], want[1]) != 0 {
		t.Error("what was queued is not what Latents draws")
	}
	live := s.e.Memory().Live
	if p, err = sample.Queue(t.Context(), s.e, s.p, s.model, s.text[:1], o); err != nil {
		t.Fatal(err)
	}
	p.Free()
	if left := s.e.Memory().Live - live; left != 0 {
		t.Errorf("%d bytes stay on the device", left)
	}
	if _, err := sample.Queue(t.Context(), s.e, s.p, s.model, s.text, o); err == nil || !strings.Contains(err.Error(), "3 prompts are more than a batch of 2") {
		t.Errorf("error %v", err)
	}
}

func TestLatentsRefuse(t *testing.T) {
	s := open(t)
	for _, c := range []struct {
		o    sample.Options
		says string
	}{
		{sample.Options{Steps: 0, Batch: 1}, "1 to 1000 steps"},
		{sample.Options{Steps: 1001, Batch: 1}, "1 to 1000 steps"},
		{sample.Options{Steps: 1, Batch: 0}, "a batch of at least one"},
		{sample.Options{Steps: 1, Batch: 1, Noise: [][]float32{{1}}}, "noise for 1 pictures, and there are 3 prompts"},
		{sample.Options{Steps: 1, Batch: 1, Noise: [][]float32{{1}, {2}, {3}}}, "starting noise 0 has 1 values"},
		{sample.Options{Steps: 1, Batch: 1, TimeIDs: []float32{1}}, "takes 6 values a sample, not 1"},
		{sample.Options{Steps: 1, Batch: 1, Guidance: 2, Negative: family.Conditions{family.Text: []float32{1}}}, "takes 384 values a sample, not 1"},
	} {
		c.o.Size = s.p.Native()
		_, err := sample.Latents(context.Background(), s.e, s.p, s.model, s.text, c.o)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v, want one about %q", c.o, err, c.says)
		}
	}
}
