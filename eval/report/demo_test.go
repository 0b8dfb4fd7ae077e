package report

import (
	"flag"
	"fmt"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"testing"
)

var demoDir = flag.String("demo", "", "write a demonstration report with invented numbers into this folder")

// demoReport is a whole report of invented numbers, labelled as such.
func demoReport(t *testing.T) *Report {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	r := &Report{
		Title:   "Layout test: a ladder from 128 to 1 step",
		Summary: "Every number and picture on this page is invented to test the layout. Nothing was trained or measured.",
		Facts: []Fact{
			{"Protocol", "mini: 512 held-out captions, one image each, fixed noise per caption, 64×64 PNG"},
			{"Reference", "1,024 real images of the evaluation split"},
			{"Intervals", "95 %, 400 random halves of the samples, seed 7"},
			{"Teacher", "32 Euler steps, guidance 3, trailing spacing"},
		},
		Warnings: []string{"This page tests the layout."},
		Commands: []Command{{"Make the run again", "fewstep run configs/mini/demo.yaml --dir run"}, {"Evaluate one model", "fewstep eval --model run/exports/8step_lora.safetensors --base mini --steps 8 --samples 512 --seed 7 --convention mini"}},
		Lineage: []Artifact{
			{"base UNet", "mini/unet/diffusion_pytorch_model.safetensors", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", ""},
			{"evaluation captions", "mini/data/eval.parquet", "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752", "1,024 rows"},
		},
		Config: "run:\n  seed: 7\nstages:\n  - name: \"128 → 32\"\n    loss: mse\n    note: \"<b>not markup</b> & such\"\n",
		Metrics: []Metric{
			{"FD(mini-clip)", "mini", false, "Fréchet distance of the mini CLIP's image features, 128 dimensions, whole image.", "FID-Whole", 0, false},
			{"FD-Patch(mini-clip)", "mini", false, "The same on early layers of the centre crop; sees blur.", "FID-Patch", 0, false},
			{"CLIP score", "mini", true, "Cosine × 100 of the mini CLIP, clamped at 0. Shares its text encoder with the model.", "CLIP score", 0, false},
			{"FD(nsfwjs-inception)", "mini", false, "Fréchet distance in the features of an independent network.", "FID-Whole", 0, false},
			{"Laplacian energy", "mini", false, "Mean variance of the Laplacian as a multiple of the real images'.", "", 1, true},
			{"Teacher RMS", "mini", false, "Root mean square difference from the teacher's image, in grey levels.", "", 0, true},
			{"Teacher similarity", "mini", true, "Cosine × 100 of image and teacher's image.", "", 0, true},
		},
		Published: Lightning(),
	}
	const influential = 64
	own, shared := rand.New(rand.NewPCG(2, 2)), make([]float64, influential) // rows made from the same noise err alike
	for i := range shared {
		shared[i] = own.NormFloat64()
	}
	add := func(model string, steps, calls int, kind Kind, whole, patch, clip float64) {
		all := []float64{whole, patch, clip, 3 + 4*whole, 1.3 - 0.4*patch, 20 + 9*whole, 99 - 9*whole}
		if kind == Real || kind == Teacher {
			all = all[:5]
		}
		for i, v := range all {
			spread := []float64{0.04, 0.03, 0.35, 0.2, 0.03, 0.6, 0.4}[i] * (0.8 + 0.4*rng.Float64())
			if i < 2 {
				spread *= 0.5 + v/2
			}
			m := r.Metrics[i]
			influences := make([]float32, influential)
			for k, s := range shared {
				influences[k] = float32(spread / 1.96 * math.Sqrt(512) * (0.95*s + 0.3*own.NormFloat64()))
			}
			r.Rows = append(r.Rows, Row{model, steps, calls, kind, m.Name, m.Convention, v, v - spread, v + 1.1*spread, 512, influences})
		}
		if kind != Real {
			r.Timings = append(r.Timings, Timing{Model: model, Kind: kind, Steps: steps, Calls: calls, SecondsPerImage: 0.004 * float64(calls), Device: "cpu, 2 cores"})
		}
	}
	add("real", 0, 0, Real, 0.16, 0.12, 27.1)
	add("teacher", 32, 64, Teacher, 0.87, 0.61, 25.4)
	for _, u := range []struct {
		steps, calls       int
		whole, patch, clip float64
	}{{8, 16, 0.93, 0.70, 25.2}, {4, 8, 1.05, 0.83, 24.7}, {2, 4, 1.42, 1.2, 23.1}, {1, 2, 3.0, 2.4, 18.3}, {32, 32, 1.14, 0.74, 23.2}, {8, 8, 1.21, 0.86, 22.9}, {4, 4, 1.34, 1.1, 22.0}, {2, 2, 1.71, 1.6, 20.4}, {1, 1, 2.3, 2.0, 17.9}} {
		add("teacher", u.steps, u.calls, Undistilled, u.whole, u.patch, u.clip)
	}
	for _, f := range []struct {
		steps              int
		whole, patch, clip float64
	}{{32, 0.88, 0.63, 25.3}, {8, 0.90, 0.62, 25.2}, {4, 0.92, 0.66, 25.0}, {2, 1.02, 0.81, 24.4}, {1, 1.9, 2.1, 20.8}} {
		add(fmt.Sprintf("%dstep_unet", f.steps), f.steps, f.steps, Full, f.whole, f.patch, f.clip)
	}
	add("8step_lora", 8, 8, LoRA, 0.92, 0.65, 25.1)
	add("4step_lora", 4, 4, LoRA, 0.97, 0.70, 24.8)
	add("2step_lora", 2, 2, LoRA, 1.18, 0.98, 23.6)

	for _, e := range []struct {
		steps              int
		whole, patch, clip float64
	}{{8, 0.91, 0.64, 25.2}, {4, 0.99, 0.75, 24.6}, {2, 1.4, 1.2, 22.4}, {1, 2.2, 2.3, 18.8}} {
		add("32step", e.steps, e.steps, Earlier, e.whole, e.patch, e.clip)
		add(fmt.Sprintf("mse-only/%dstep", e.steps), e.steps, e.steps, Rival, e.whole-0.02, e.patch-0.01, e.clip+0.1)
	}
	add("mse-only/4step_lora", 4, 4, Rival, 0.98, 0.74, 24.6)

	prompts := []string{"a lion on stripes", "two apples and a doughnut on a gradient", "a clock", "a butterfly by the sea", "a castle and a rocket at night"}
	columns := []string{"teacher 32 (64 calls)", "full 8", "LoRA 8", "full 4", "LoRA 4", "full 2", "LoRA 2", "full 1"}
	var grid [][]image.Image
	for i := range prompts {
		var row []image.Image
		for j := range columns {
			row = append(row, demoImage(rng, i, j))
		}
		grid = append(grid, row)
	}
	grid[3][6] = nil
	png, err := ComposeSheet(grid, prompts, columns)
	if err != nil {
		t.Fatal(err)
	}
	r.Sheets = []Sheet{{Title: "Every step count beside the teacher", Caption: "Same caption and same noise along each row.", PNG: png, Prompts: prompts}}

	for _, s := range []struct{ name, kind string }{{"128 → 32", "mse"}, {"32 → 8", "adv"}, {"2 → 1", "adv"}} {
		stage := Stage{Name: s.name}
		if s.kind == "mse" {
			stage.Phases = []Phase{{Name: "MSE, full", Student: 600, Curves: []Curve{demoCurve(rng, LossCurve, 600, func(x float64) float64 { return 0.02*math.Exp(-5*x) + 0.001 }, 0.2)}}}
		} else {
			for _, phase := range []string{"LoRA, conditional", "LoRA, unconditional", "full, unconditional"} {
				stage.Phases = append(stage.Phases, Phase{Name: phase, Student: 380, Discriminator: 400, Curves: []Curve{
					demoCurve(rng, LossCurve, 400, func(x float64) float64 { return 0.8 + 0.3*x }, 0.2),
					demoCurve(rng, DLossCurve, 400, func(x float64) float64 { return 1.38 - 0.3*x }, 0.1),
					demoCurve(rng, AccuracyCurve, 400, func(x float64) float64 { return 0.5 + 0.2*x }, 0.1),
					demoCurve(rng, PairedCurve, 400, func(x float64) float64 { return 0.5 + 0.3*x }, 0.1),
					demoCurve(rng, LogitGapCurve, 400, func(x float64) float64 { return 0.1 + x }, 0.5),
				}})
			}
			stage.Phases[2].Curves[2] = demoCurve(rng, AccuracyCurve, 100, func(x float64) float64 { return 0.995 }, 0.002)
			stage.Phases[2].Curves[1] = demoCurve(rng, DLossCurve, 100, func(x float64) float64 { return 0.02 }, 0.5)
			stage.Phases[1].Student, stage.Phases[1].Few = 2, true
			stage.Phases[2].Notes = []string{"Discriminator collapse reported at 12,800 samples."}
		}
		r.Stages = append(r.Stages, stage)
	}
	return r
}

func demoCurve(rng *rand.Rand, name string, n int, f func(float64) float64, noise float64) Curve {
	c := Curve{Name: name}
	for i := range n {
		c.Points = append(c.Points, Point{int64(i+1) * 16, f(float64(i)/float64(n)) * (1 + noise*(rng.Float64()-0.5))})
	}
	return c
}

func demoImage(rng *rand.Rand, concept, model int) image.Image {
	im := image.NewRGBA(image.Rect(0, 0, 64, 64))
	noise := float64(model) * 5
	for y := range 64 {
		for x := range 64 {
			dx, dy := float64(x)-32, float64(y)-32
			r := math.Hypot(dx, dy*(1+0.15*float64(concept))) + 4*math.Sin(float64(concept+2)*math.Atan2(dy, dx))
			v := [3]float64{255, 255, 255}
			if r < 24 {
				v = [3]float64{float64(60 * concept), 200 - float64(30*concept), 90 + float64(20*model)}
			}
			var c [3]uint8
			for k := range c {
				c[k] = uint8(math.Max(0, math.Min(255, v[k]+noise*(rng.Float64()-0.5))))
			}
			im.SetRGBA(x, y, color.RGBA{c[0], c[1], c[2], 255})
		}
	}
	return im
}

func TestDemo(t *testing.T) {
	if *demoDir == "" {
		t.Skip("no -demo folder")
	}
	if err := Write(*demoDir, demoReport(t)); err != nil {
		t.Fatal(err)
	}
}
