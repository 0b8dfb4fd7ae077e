package eval

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/eval/sample"
	"fewstep/internal/drawn"
	"fewstep/internal/xla"
	"fewstep/model/inception"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
)

var (
	speedModel = flag.String("speed-model", "", "model whose evaluation TestEvaluationSpeed times; none = the test is skipped")
	speedConf  = flag.String("speed-config", "", "folder with what a single file lacks")
	speedN     = flag.Int("speed-images", 32, "images")
	speedBatch = flag.Int("speed-batch", 4, "images per program call")
	speedSide  = flag.Int("speed-side", 0, "side of the images in pixels; 0 = the model's own")
	speedSteps = flag.Int("speed-steps", 4, "network calls per image")
)

// TestEvaluationSpeed draws images with and without looking at them, keeping them as PNG and adding up statistics, and
// logs both rates: what lies behind the drawing should cost next to nothing. Programs are compiled before. It needs a
// model; weights may be random.
func TestEvaluationSpeed(t *testing.T) {
	if *speedModel == "" {
		t.Skip("-speed-model names no model")
	}
	rt, err := xla.Open(xla.Auto, xla.Options{MemoryFraction: 0.9})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	p, err := pipeline.OpenWith(*speedModel, *speedConf)
	if err != nil {
		t.Fatal(err)
	}
	side := *speedSide
	if side == 0 {
		side = p.UNet.SampleSize * p.VAE.Factor()
	}
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	if rt.Kind == xla.CUDA {
		e = engine.New(rt.Backend, dtypes.BFloat16, nn.Layer)
		e.Frozen = dtypes.BFloat16
	}
	specs, err := p.UNetSpecs(rt.Backend, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &drawing{engine: e, pipeline: p, side: side,
		options: sample.Options{Steps: *speedSteps, Prediction: p.Prediction, Size: pipeline.Square(side), Batch: *speedBatch}}
	d.open = func() error {
		if d.encoders, err = p.LoadEncoders(e, *speedBatch, pipeline.TextPart, pipeline.VAEPart); err != nil {
			return err
		}
		src, err := pipeline.OpenWeights(p.Dir, "unet")
		if err != nil {
			return err
		}
		defer src.Close()
		d.params, err = e.LoadFunc(specs, pipeline.Reader(src), nil)
		return err
	}
	file := filepath.Join(t.TempDir(), "inception.safetensors")
	of, err := inception.StateDict(rt.Backend)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []weights.Tensor
	for _, s := range of {
		tensors = append(tensors, weights.FromFloat32(s.Name, s.Dims, drawn.Inception(s.Name, s.Dims), weights.F32))
	}
	if err := weights.Write(file, tensors, nil); err != nil {
		t.Fatal(err)
	}
	standard := metric.Standards()[0]
	meter, err := metric.OpenMeter(engine.New(rt.Backend, dtypes.Float32, nn.Network), standard, metric.Sources{Inception: file}, 2**speedBatch)
	if err != nil {
		t.Fatal(err)
	}
	judge := &meterJudge{meter: meter}
	folder := t.TempDir()
	draw := func(n int, use ...func(batch) error) float64 {
		prompts := make([]string, n)
		for i := range prompts {
			prompts[i] = fmt.Sprintf("picture %d of a cat on a red sofa", i)
		}
		start := time.Now()
		if err := d.draw(context.Background(), prompts, use...); err != nil {
			t.Fatal(err)
		}
		return float64(n) / time.Since(start).Seconds()
	}
	looked := 0
	look := func(b batch) error {
		f, err := judge.Features(b.images)
		looked += len(f)
		return err
	}
	draw(*speedBatch, look) // compiles
	for round := range 3 {
		bare := draw(*speedN)
		if d.kept, err = openKept(folder, fmt.Sprint("round", round), keptSettings{Digest: "speed", Model: "m", Steps: *speedSteps}, func(string, error) {}); err != nil {
			t.Fatal(err)
		}
		whole := draw(*speedN, look)
		d.kept = nil
		t.Logf("%s, %d px, %d steps, batch %d, %d images: drawn %.3f images/s; drawn, looked at (%s, whole and patch) and kept as PNG %.3f images/s, %.1f %%",
			deviceName(e), side, *speedSteps, *speedBatch, *speedN, bare, standard.Name, whole, 100*whole/bare)
	}
	if want := *speedBatch + 3**speedN; looked != want {
		t.Errorf("%d images were looked at, not %d", looked, want)
	}
	if files, _ := filepath.Glob(filepath.Join(folder, "*", "*.png")); len(files) != 3**speedN {
		entries, _ := os.ReadDir(folder)
		t.Errorf("%d PNG files are there, not %d: %v", len(files), 3**speedN, entries)
	}
}
