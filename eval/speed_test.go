package eval

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/eval/sample"
	"fewstep/internal/drawn"
	"fewstep/internal/xla"
	"fewstep/model/clip"
	"fewstep/model/inception"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

var (
	speedModel = flag.String("speed-model", "", "model whose evaluation TestEvaluationSpeed times; none = the test is skipped")
	speedConf  = flag.String("speed-config", "", "folder with what a single file lacks")
	speedN     = flag.Int("speed-images", 32, "images")
	speedBatch = flag.Int("speed-batch", 4, "images per program call")
	speedSide  = flag.Int("speed-side", 0, "side of the images in pixels; 0 = the model's own")
	speedSteps = flag.Int("speed-steps", 4, "network calls per image")
	speedClip  = flag.String("speed-clip", "random", "folder of the CLIP that scores; random = random weights of ViT-L/14's size, none = no scores")
	speedWords = flag.String("speed-tokenizer", "", "folder of its tokenizer; none = its own, or OpenAI's")
)

// TestEvaluationSpeed draws images with and without looking at them, scoring them and keeping them as PNG, and logs both
// rates: what lies behind the drawing should cost next to nothing. What comes after the last image is drawn is logged
// apart: it is the same for any number of images. Programs are compiled before. It needs a model; weights may be random.
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
	d := &drawing{lanes: []*lane{{engine: e}}, pipeline: p, side: side,
		options: sample.Options{Steps: *speedSteps, Prediction: p.Prediction, Size: pipeline.Square(side), Batch: *speedBatch}}
	d.open = func(l *lane) error {
		if err := l.encode(p, *speedBatch); err != nil {
			return err
		}
		src, err := pipeline.OpenWeights(p.Dir, "unet")
		if err != nil {
			return err
		}
		defer src.Close()
		l.model, err = e.LoadFunc(specs, pipeline.Reader(src), nil)
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
	from := metric.Sources{Inception: file, CLIP: *speedClip, Tokenizer: *speedWords}
	switch *speedClip {
	case "none":
		from.CLIP = ""
	case "random":
		from.CLIP = t.TempDir()
		randomCLIP(t, rt.Backend, from.CLIP)
	}
	meter, err := metric.OpenMeter(engine.New(rt.Backend, dtypes.Float32, nn.Network), standard, from, *speedBatch)
	if err != nil {
		t.Fatal(err)
	}
	judge := &meterJudge{meter: meter}
	folder := t.TempDir()
	// draw returns the seconds to the last image's pixels, and to the end of all that is done with them.
	draw := func(n int, use ...func(batch) error) (pixels, all float64) {
		prompts := make([]string, n)
		for i := range prompts {
			prompts[i] = fmt.Sprintf("picture %d of a cat on a red sofa", i)
		}
		start := time.Now()
		last := start
		mark := func(batch) error { last = time.Now(); return nil }
		if err := d.draw(context.Background(), prompts, append([]func(batch) error{mark}, use...)...); err != nil {
			t.Fatal(err)
		}
		return last.Sub(start).Seconds(), time.Since(start).Seconds()
	}
	looked, scored := 0, 0
	look := func(b batch) error {
		f, err := judge.Features(b.images)
		looked += len(f)
		for _, v := range f {
			scored += min(1, len(v.(metric.Look).Embedding))
		}
		return err
	}
	draw(*speedBatch, look) // compiles
	n := float64(*speedN)
	for round := range 3 {
		_, bare := draw(*speedN)
		if d.kept, err = openKept(folder, fmt.Sprint("round", round), keptSettings{Digest: "speed", Model: "m", Steps: *speedSteps}, func(string, error) {}); err != nil {
			t.Fatal(err)
		}
		pixels, whole := draw(*speedN, look)
		d.kept = nil
		t.Logf("%s, %d px, %d steps, batch %d, %d images, CLIP %s: drawn alone in %.2f s, %.3f images/s; drawn, looked at (%s, whole and patch) and kept as PNG in %.2f s, %.3f images/s, %.1f %%: the last image drawn after %.2f s, %.1f %%, and %.2f s for the rest",
			deviceName(d.lanes), side, *speedSteps, *speedBatch, *speedN, *speedClip, bare, n/bare, standard.Name, whole, n/whole, 100*bare/whole, pixels, 100*bare/pixels, whole-pixels)
	}
	want := *speedBatch + 3**speedN
	if looked != want {
		t.Errorf("%d images were looked at, not %d", looked, want)
	}
	if from.CLIP == "" {
		want = 0
	}
	if scored != want {
		t.Errorf("%d images were scored, not %d", scored, want)
	}
	if files, _ := filepath.Glob(filepath.Join(folder, "*", "*.png")); len(files) != 3**speedN {
		entries, _ := os.ReadDir(folder)
		t.Errorf("%d PNG files are there, not %d: %v", len(files), 3**speedN, entries)
	}
}

// vitL14 is the shape of OpenAI's ViT-L/14.
const vitL14 = `{"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 768,
"text_config": {"hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "max_position_embeddings": 77,
	"num_attention_heads": 12, "num_hidden_layers": 12, "projection_dim": 768, "vocab_size": 49408, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
"vision_config": {"hidden_act": "quick_gelu", "hidden_size": 1024, "image_size": 224, "intermediate_size": 4096,
	"num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768}}`

// randomCLIP writes a CLIP of that size with random weights, 0.9 GB.
func randomCLIP(t *testing.T, b compute.Backend, dir string) {
	t.Helper()
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(vitL14), 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := clip.LoadTextConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	vision, err := clip.LoadVisionConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []weights.Tensor
	add := func(block nn.Block, in ...shapes.Shape) {
		specs, err := nn.Trace(b, block, in...)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range specs {
			seed := uint64(len(tensors))
			tensors = append(tensors, weights.Tensor{Name: s.Name, Shape: s.Dims, DType: weights.F16, Fill: func() ([]byte, error) {
				rng := rand.New(rand.NewPCG(seed, 0))
				out := make([]byte, 0, 2*s.Size())
				for range s.Size() {
					bits := uint16(rng.Uint32())
					out = binary.LittleEndian.AppendUint16(out, bits&0x83ff|9<<10) // ±[1/64, 1/32)
				}
				return out, nil
			}})
		}
	}
	add(vision.Vision(""), shapes.Make(dtypes.Float32, 1, vision.ImageSize, vision.ImageSize, vision.Channels))
	add(text.Text(""), shapes.Make(dtypes.Int32, 1, text.MaxPositions), shapes.Make(dtypes.Int32, 1))
	if err := weights.Write(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
}
