package extract

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fewstep/model/unet"
)

// sdxlLayers are the shapes of the layers that get a module, and how often each occurs in SDXL's UNet.
func sdxlLayers(t testing.TB) (shapes map[string][]int, counts map[string]int) {
	t.Helper()
	c, err := unet.LoadConfig("../../model/golden/testdata/sdxl/unet/config.json")
	if err != nil {
		t.Fatal(err)
	}
	shapes, counts = map[string][]int{}, map[string]int{}
	for name, shape := range c.Tensors() {
		if path, ok := strings.CutSuffix(name, ".weight"); ok && len(shape) > 1 && inBlocks(path) {
			key := fmt.Sprint(shape)
			shapes[key] = shape
			counts[key]++
		}
	}
	return shapes, counts
}

// The layers are those of the published rank-64 LoRA.
func TestSDXLModules(t *testing.T) {
	_, counts := sdxlLayers(t)
	n := 0
	for _, c := range counts {
		n += c
	}
	if n != 788 {
		t.Errorf("%d modules, want 788", n)
	}
}

// BenchmarkSDXL extracts one layer of each shape at rank 64 and adds up what the whole UNet takes: the metric
// SDXL-seconds. It leaves out reading the two files.
func BenchmarkSDXL(b *testing.B) {
	e := newEngine(b)
	shapes, counts := sdxlLayers(b)
	rng := rand.New(rand.NewPCG(1, 2))
	data := map[string][]float32{}
	opt := Options{Rank: 64, Oversample: 16, Iterations: 2}
	for key, shape := range shapes {
		n := 1
		for _, d := range shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.Float64()-0.5) * 1e-3
		}
		data[key] = v
		if _, _, err := module(e, key, shape, v, opt); err != nil { // compiles
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	total := 0.0
	for b.Loop() {
		for _, key := range slices.Sorted(maps.Keys(shapes)) {
			before := b.Elapsed()
			if _, _, err := module(e, key, shapes[key], data[key], opt); err != nil {
				b.Fatal(err)
			}
			total += float64(counts[key]) * (b.Elapsed() - before).Seconds()
		}
	}
	b.ReportMetric(total/float64(b.N), "SDXL-seconds")
}
