package train_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/train/monitor"
)

// bucketed are three shapes, and a few updates of a phase with all networks, in micro-batches of two.
var bucketed = []string{"data.buckets={list: own, own: [16x16, 24x16, 16x24]}", "train.batch=2", "train.accumulate=2", "data.dropout=0.3"}

// manySizes writes images of many sizes, with a caption each; some are smaller than the shapes of bucketed.
func manySizes(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		w, h := 14+i*7%31, 14+i*11%29
		m := image.NewRGBA(image.Rect(0, 0, w, h))
		for y := range h {
			for x := range w {
				m.SetRGBA(x, y, color.RGBA{uint8(x * 9), uint8(y * 9), uint8(i * 16), 255})
			}
		}
		var b bytes.Buffer
		if err := png.Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{".png": b.Bytes(), ".txt": fmt.Appendf(nil, "picture %d", i%7)} {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d%s", i, name)), content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// invert writes another picture of the same size.
func invert(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := png.Decode(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	out := image.NewRGBA(m.Bounds())
	for i := range out.Pix {
		out.Pix[i] = 255 - m.(*image.RGBA).Pix[i]
		if i%4 == 3 {
			out.Pix[i] = 255
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

// values are the statistics of a run's updates.
func values(t *testing.T, dir string) (out []map[string]float64) {
	t.Helper()
	records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Kind == monitor.KindStep {
			out = append(out, r.Values)
		}
	}
	return out
}

const bothForms = `
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 16, lr: 1e-3}, {name: lora-uncond, samples: 16, lr: 1e-3}]}
`

// A run in buckets that is interrupted ends with the same bytes, whether encodings are made before or while it trains; and
// these differ in rounding alone.
func TestBucketsResume(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder several times")
	}
	recipe, source := with(t, tiny(t), bothForms), manySizes(t, 60)
	var runs []string
	for _, ahead := range []string{"16", "0"} {
		set := append([]string{"data.source=" + source, "data.encode_ahead=" + ahead, "data.posterior=sample"}, bucketed...)
		straight, broken := filepath.Join(t.TempDir(), "straight"), filepath.Join(t.TempDir(), "broken")
		walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil, set...)
		walk(t, xla.Go, recipe, broken, "8", xla.Options{}, []int{1, 3}, set...)
		same(t, made(t, straight), made(t, broken))
		finite(t, straight)
		encoded, err := filepath.Glob(filepath.Join(straight, "encoded", "*"))
		if err != nil {
			t.Fatal(err)
		}
		list := strings.Join(encoded, " ")
		if before := ahead != "0"; strings.Contains(list, "captions") != before || strings.Contains(list, "posteriors-24x16-decoder") != before {
			t.Errorf("encode_ahead %s: %s", ahead, list)
		}
		runs = append(runs, straight)
	}
	for name, v := range values(t, runs[0])[0] {
		if w := values(t, runs[1])[0][name]; math.Abs(v-w) > 1e-6*max(1, math.Abs(v)) {
			t.Errorf("the first %s is %g with encodings made before, %g with those made while the run trains", name, v, w)
		}
	}
	nearly(t, runs[0], runs[1], 0.02)
}

// The order does not depend on how many devices there are.
func TestBucketsOnDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the tiny pipeline's programs for two devices")
	}
	recipe, source := with(t, tiny(t), adversarial), manySizes(t, 60)
	for _, ahead := range []string{"16", "0"} {
		var dirs []string
		for _, devices := range []int{1, 2} {
			c, err := configs.Load(recipe, append([]string{"data.source=" + source, "data.encode_ahead=" + ahead, "stages.8.phases.lora-cond.samples=8"}, bucketed...)...)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "run")
			on(t, devices, c, dir, 0)
			dirs = append(dirs, dir)
		}
		nearly(t, dirs[0], dirs[1], 1e-3)
	}
}

// The sizes that the networks are told change what every one of them computes, and nothing else of the run.
func TestConditionsAreTold(t *testing.T) {
	recipe, source := with(t, tiny(t), adversarial), manySizes(t, 40)
	first := map[string]map[string]float64{}
	for _, told := range []string{"sample", "target"} {
		dir := filepath.Join(t.TempDir(), "run")
		walk(t, xla.Go, recipe, dir, "8", xla.Options{}, nil, "data.source="+source, "data.conditions="+told)
		first[told] = values(t, dir)[0]
	}
	for _, name := range []string{monitor.LossD, monitor.LossG, monitor.Gap} {
		if a, b := first["sample"][name], first["target"][name]; a == b || a == 0 {
			t.Errorf("%s is %g with each sample's sizes, %g with those of sampling", name, a, b)
		}
	}
}
