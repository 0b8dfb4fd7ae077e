package metric

import (
	"testing"

	"fewstep/engine"
	"fewstep/model/inception"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// BenchmarkInception looks at batches of 16 images of 299 pixels; bench_features.py measures PyTorch on the same.
func BenchmarkInception(b *testing.B) {
	rt, err := opened()
	if err != nil {
		b.Skip(err)
	}
	path, err := random()
	if err != nil {
		b.Fatal(err)
	}
	const batch = 16
	x, err := OpenExtractor(engine.New(rt.Backend, dtypes.Float32, nn.Network), path, batch)
	if err != nil {
		b.Fatal(err)
	}
	defer x.Free()
	all := make([][]float32, batch)
	for i := range all {
		all[i] = make([]float32, inception.Side*inception.Side*3)
		for k := range all[i] {
			all[i][k] = float32(k%255)/127.5 - 1
		}
	}
	look := func() {
		if _, err := x.Features(all); err != nil {
			b.Fatal(err)
		}
	}
	look()
	for b.Loop() {
		look()
	}
	b.ReportMetric(batch*float64(b.N)/b.Elapsed().Seconds(), "images/s")
}
