package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/tinypipeline"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

var captionsOfTests = []string{"red disc, upper left", "green square, lower left", "blue disc", "yellow square, upper right", "red square", "disc", "blue square, lower right", "green disc", "yellow disc", "square"}

// random is an evaluation of a random model on the pure-Go backend: nothing is compiled.
func random(t *testing.T) Spec {
	t.Helper()
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return randomOn(t, rt)
}

func randomOn(t *testing.T, rt *xla.Runtime) Spec {
	t.Helper()
	dir := t.TempDir()
	if _, err := tinypipeline.Write(dir, filepath.Join("..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Open(filepath.Join(dir, "tinymodel"))
	if err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Model, c.Data.Source, c.Data.Resolution = p.Dir, filepath.Join(dir, "images.parquet"), tinypipeline.Resolution
	c.Eval = configs.Eval{Samples: 10, Batch: 4, TeacherSteps: 2, SheetSamples: 2, Seed: 5, Bootstrap: 20}
	s := Spec{Engine: engine.New(rt.Backend, dtypes.Float32, nn.Network), Pipeline: p, Config: c,
		Captions: &CaptionList{Protocol: "captions", Path: "test", Texts: captionsOfTests}}
	specs, err := p.UNetSpecs(rt.Backend, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Entries = []Entry{{Model: "2step", Kind: report.Full, Steps: 2, Prediction: p.Prediction, Load: func(e *engine.Engine) (*engine.Params, func(), error) {
		v, err := pipeline.Read(p.Dir, "unet")
		if err != nil {
			return nil, nil, err
		}
		m, err := e.Load(specs, v, nil)
		if err != nil {
			return nil, nil, err
		}
		return m, m.FreeAll, nil
	}}}
	return s
}

func evaluated(t *testing.T, s Spec) *Table {
	t.Helper()
	table, err := Evaluate(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func marshalled(t *testing.T, table *Table) []byte {
	t.Helper()
	raw, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestImagesDoNotDependOnTheBatch: image i is made from noise i and prompt i alone. The noise is the same to the bit
// (TestNoisePerPrompt); the sums of a larger batch may be taken in another order, so the images may differ by rounding: by one grey level.
func TestImagesDoNotDependOnTheBatch(t *testing.T) {
	s := random(t)
	model, free, err := s.Entries[0].Load(s.Engine)
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	draw := func(n int, plan *scheduler.Plan) (out []*image.NRGBA) {
		enc, err := encoder.Load(s.Pipeline, s.Engine, n, encoder.TextPart, encoder.VAEPart)
		if err != nil {
			t.Fatal(err)
		}
		defer enc.Free()
		d := &drawing{lanes: []*lane{{engine: s.Engine, encoders: enc, model: model, ready: true}}, pipeline: s.Pipeline, side: tinypipeline.Resolution,
			options: sample.Options{Steps: 2, Guidance: 3, Plan: plan, Seed: 5, Size: pipeline.Square(tinypipeline.Resolution), Batch: n}}
		err = d.draw(context.Background(), captionsOfTests, func(b batch) error {
			if b.first != len(out) || b.n != len(b.images) {
				return fmt.Errorf("images %d to %d after %d", b.first, b.first+b.n, len(out))
			}
			out = append(out, b.images...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != len(captionsOfTests) || slices.Equal(out[0].Pix, out[1].Pix) {
			t.Fatalf("%d images, or two prompts give the same", len(out))
		}
		return out
	}
	near := func(what string, a, b []*image.NRGBA) {
		t.Helper()
		for i := range a {
			for k, v := range a[i].Pix {
				if d := int(v) - int(b[i].Pix[k]); d > 1 || d < -1 {
					t.Fatalf("%s: image %d differs by %d levels", what, i, d)
				}
			}
		}
	}
	own := draw(8, nil)
	near("batches of 1 and of 8", draw(1, nil), own)
	near("batches of 3 and of 8", draw(3, nil), own)
	for _, name := range []scheduler.Name{scheduler.Trained, scheduler.LCM, scheduler.EulerAncestral} {
		plan, err := name.Plan(s.Pipeline.Schedule, s.Pipeline.Prediction, scheduler.Settings{OriginalSteps: 50}, 2)
		if err != nil {
			t.Fatal(err)
		}
		planned := draw(8, &plan)
		near(string(name)+", batches of 3 and of 8", draw(3, &plan), planned)
		if name == scheduler.Trained {
			near("the students' own way, and as a plan", planned, own)
		} else if slices.Equal(planned[0].Pix, own[0].Pix) {
			t.Errorf("%s draws what the students' own way draws", name)
		}
	}
}

// uploads sees what goes to a device.
type uploads struct {
	compute.Backend
	latents [][]float32 // arrays [B, h, w, C]
}

func (u *uploads) BufferFromFlatData(device compute.DeviceNum, flat any, shape shapes.Shape) (compute.Buffer, error) {
	if v, ok := flat.([]float32); ok && shape.Rank() == 4 {
		u.latents = append(u.latents, slices.Clone(v))
	}
	return u.Backend.BufferFromFlatData(device, flat, shape)
}

// TestNoisePerPrompt: the noise that a prompt starts from, and all that is added later, is the same to the bit whatever
// the batch and the prompt's place in it. The plan leaves the latents alone but for the noise that it adds.
func TestNoisePerPrompt(t *testing.T) {
	s := random(t)
	model, free, err := s.Entries[0].Load(s.Engine)
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	const seed, first = 5, 40
	size := pipeline.Square(tinypipeline.Resolution)
	adds := &scheduler.Plan{Start: 1, Moves: []scheduler.Move{{Index: 900, A: 1, C: 0.5}, {Index: 500, A: 1, C: 0.25}, {Index: 100, A: 1}}}
	want := func(i, after int, plan *scheduler.Plan) []float32 {
		x := sample.Noise(s.Pipeline, seed, first+int64(i), size)
		for k := range after {
			fresh := make([]float32, len(x))
			distill.Normal(fresh, seed, distill.EvalNoise, first+int64(i)+int64(k+1)<<48)
			for j, z := range fresh {
				x[j] += float32(plan.Moves[k].C) * z
			}
		}
		return x
	}
	if slices.Equal(want(4, 0, adds), want(5, 0, adds)) || slices.Equal(want(4, 1, adds), want(4, 2, adds)) {
		t.Fatal("two prompts, or two calls, have the same noise")
	}
	for _, plan := range []*scheduler.Plan{nil, adds} {
		noises := 1
		if plan != nil {
			noises = 3
		}
		for _, n := range []int{1, 3, 8} {
			seen := &uploads{Backend: s.Engine.Backend}
			enc, err := encoder.Load(s.Pipeline, s.Engine, n, encoder.TextPart)
			if err != nil {
				t.Fatal(err)
			}
			l := &lane{engine: engine.New(seen, dtypes.Float32, nn.Network), encoders: enc, model: model, ready: true}
			d := &drawing{pipeline: s.Pipeline, options: sample.Options{Steps: 2, Guidance: 3, Plan: plan, Seed: seed, First: first, Size: size, Batch: n}}
			for from := 0; from < len(captionsOfTests); from += n {
				b := batch{first: from, n: min(n, len(captionsOfTests)-from)}
				if err := d.encode(l, captionsOfTests, &b); err != nil {
					t.Fatal(err)
				}
				seen.latents = nil
				if err := d.denoise(t.Context(), l, &b); err != nil {
					t.Fatal(err)
				}
				b.latents.Free()
				if len(seen.latents) != noises {
					t.Fatalf("batches of %d: %d arrays of noise, not %d", n, len(seen.latents), noises)
				}
				for k, v := range seen.latents {
					each := len(v) / n
					for i := range b.n {
						if !slices.Equal(v[i*each:(i+1)*each], want(from+i, k, plan)) {
							t.Errorf("batches of %d: after %d calls prompt %d has other noise", n, k, from+i)
						}
					}
				}
			}
			enc.Free()
		}
	}
}

// TestDevicesDrawTheSame: three devices take turns with the batches, of which there are not as many for each. The table is the
// same to the byte, and so are the images; a row that some of them are kept of goes on from these.
func TestDevicesDrawTheSame(t *testing.T) {
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: 3})
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	s := randomOn(t, rt)
	s.Config.Eval.Batch = 2 // of ten images: devices draw four, four and two
	again := s.Entries[0]
	again.Model, again.Steps, again.Guidance, again.Digest = "guided", 1, 3, "of these weights"
	s.Entries = append(s.Entries, again)
	s.Images = t.TempDir()
	want := marshalled(t, evaluated(t, s))
	alone := s.Images
	if s.Drawers, err = s.Engine.On(3); err != nil {
		t.Fatal(err)
	}
	s.Images = t.TempDir()
	var devices []string
	s.Timed = func(r report.Timing) error { devices = append(devices, r.Device); return nil }
	for range 2 {
		if got := marshalled(t, evaluated(t, s)); !bytes.Equal(got, want) {
			t.Error("three devices give another table than one")
		}
		files, _ := filepath.Glob(filepath.Join(alone, "*", "*.png"))
		if len(files) != 2*len(captionsOfTests) {
			t.Fatalf("kept %v", files)
		}
		for i, path := range files {
			name, err := filepath.Rel(alone, path)
			if err != nil {
				t.Fatal(err)
			}
			a, errA := os.ReadFile(path)
			b, errB := os.ReadFile(filepath.Join(s.Images, name))
			if errA != nil || errB != nil || !bytes.Equal(a, b) {
				t.Errorf("%s differs: %v, %v", name, errA, errB)
			}
			if i%7 == 0 { // to be drawn again
				if err := os.Remove(filepath.Join(s.Images, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, name := range devices {
		if !strings.HasPrefix(name, "3 × cpu") {
			t.Errorf("drawn by %q", name)
		}
	}
	for i, e := range s.Drawers {
		if e.Runs() == 0 {
			t.Errorf("device %d drew nothing", i)
		}
	}
	if _, err := s.Engine.On(4); err == nil || !strings.Contains(err.Error(), "4 devices are asked for, and this process drives 3") {
		t.Errorf("four devices of three: %v", err)
	}
}

// TestKeptImages: a stopped row goes on from the images on disk and ends with the same table; broken ones are named
// and drawn again; images of other settings are refused.
func TestKeptImages(t *testing.T) {
	s := random(t)
	s.Images = t.TempDir()
	var told []string
	s.Metric = func(name string) { told = append(told, name) }
	whole := marshalled(t, evaluated(t, s))
	if !slices.Equal(told, []string{metric.Score}) {
		t.Errorf("without real images %q were announced", told)
	}
	dir := filepath.Join(s.Images, "full-2step-2-2")
	files, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil || len(files) != len(captionsOfTests) {
		t.Fatalf("kept %v, %v", files, err)
	}
	before, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}

	var warned []string
	s.Warn = func(w string) { warned = append(warned, w) }
	read := s.Entries[0].Load
	s.Entries[0].Load = func(e *engine.Engine) (*engine.Params, func(), error) { t.Error("the model was read"); return read(e) }
	drawn := 0
	s.Timed = func(report.Timing) error { drawn++; return nil }
	if again := marshalled(t, evaluated(t, s)); !bytes.Equal(again, whole) || drawn != 0 || len(warned) != 0 {
		t.Errorf("with all images kept: the same table %v, drawn %d, warnings %q", bytes.Equal(again, whole), drawn, warned)
	}

	s.Entries[0].Load = read
	// One is lost and one cut off: their batch of four is drawn again.
	if err := os.Truncate(files[1], 40); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files[9]); err != nil {
		t.Fatal(err)
	}
	if again := marshalled(t, evaluated(t, s)); !bytes.Equal(again, whole) {
		t.Error("a continued row gives another table")
	}
	if after, err := os.ReadFile(files[1]); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the broken image was not made again: %v", err)
	}
	if len(warned) != 2 || !strings.Contains(warned[0], files[1]) || !strings.Contains(warned[1], "1 images of 2step") {
		t.Errorf("warnings %q", warned)
	}

	s.Config.Eval.Seed++
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "other settings") {
		t.Errorf("images of another seed were taken: %v", err)
	}
}

// TestInterruptedRow: a cancelled evaluation says so, and the images drawn so far are whole.
func TestInterruptedRow(t *testing.T) {
	s := random(t)
	whole := marshalled(t, evaluated(t, s))
	s.Images = t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	s.Progress = func(p Progress) {
		if p.Row > 0 {
			cancel()
		}
	}
	if _, err := Evaluate(ctx, s); err == nil || ctx.Err() == nil {
		t.Fatalf("a cancelled evaluation ended with %v", err)
	}
	s.Progress = nil
	if again := marshalled(t, evaluated(t, s)); !bytes.Equal(again, whole) {
		t.Error("the continued evaluation gives another table")
	}
}

// TestNotANumber: weights that give NaN end in an error that names the image, never in a number.
func TestNotANumber(t *testing.T) {
	s := random(t)
	specs, err := s.Pipeline.UNetSpecs(s.Engine.Backend, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Entries[0].Load = func(e *engine.Engine) (*engine.Params, func(), error) {
		v, err := pipeline.Read(s.Pipeline.Dir, "unet")
		if err != nil {
			return nil, nil, err
		}
		v["conv_out.bias"][0] = float32(math.NaN())
		m, err := e.Load(specs, v, nil)
		if err != nil {
			return nil, nil, err
		}
		return m, m.FreeAll, nil
	}
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "2step at 2 steps") || !strings.Contains(err.Error(), "image 0 holds values that are not numbers") {
		t.Errorf("error %v", err)
	}
}

// TestFoundImages: images made elsewhere are a row too; one error names every file that cannot be measured.
func TestFoundImages(t *testing.T) {
	s := random(t)
	s.Images = t.TempDir()
	drawn := evaluated(t, s)
	dir := filepath.Join(s.Images, "full-2step-2-2")
	s.Images = ""
	s.Entries = []Entry{{Model: "elsewhere", Kind: report.Full, Steps: 2, Images: dir}}
	found := evaluated(t, s)
	if len(found.Rows) != 1 || found.Rows[0].Value != drawn.Rows[0].Value {
		t.Errorf("drawn %+v, found %+v", drawn.Rows, found.Rows)
	}
	if err := os.WriteFile(filepath.Join(dir, "000003.png"), []byte("not a picture"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "000007.png"), picture(4), 0o644); err != nil { // of 8×8 pixels
		t.Fatal(err)
	}
	_, err := Evaluate(context.Background(), s)
	for _, want := range []string{"2 of 10 images cannot be measured", "000003.png", "000007.png: 8×8 pixels, where all images must be 16×16"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	s.Entries[0].Images = t.TempDir()
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "holds 0 images, the protocol has 10 prompts") {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestDrawer: images are drawn in bf16, and differ by it, while they are measured in f32.
func TestDrawer(t *testing.T) {
	s := random(t)
	exact := evaluated(t, s)
	s.Drawers = []*engine.Engine{engine.New(s.Engine.Backend, dtypes.BFloat16, nn.Network)}
	entries, err := s.Rows([]RowSpec{{Name: "2step", Kind: "full", Steps: intList{2}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Entries = entries
	coarse := evaluated(t, s)
	a, b := exact.Rows[0].Value, coarse.Rows[0].Value
	if a == b || math.Abs(a-b) > 0.05*a {
		t.Errorf("the score is %g in f32 and %g in bf16", a, b)
	}
}
