package encoder

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/vae"

	"github.com/gomlx/compute/dtypes"
)

// BenchmarkDecodeSDXL decodes with SDXL's autoencoder, random weights, and reports the process's peak memory, which is
// of one benchmark only when that runs alone:
//
//	go test ./engine/encoder -run '^$' -benchtime 1x -bench 'DecodeSDXL/1024_px_tiles_of_512'
func BenchmarkDecodeSDXL(b *testing.B) {
	for _, side := range []int{512, 1024} {
		for _, tile := range []int{0, 256, 512} {
			name := fmt.Sprintf("%d px tiles of %d", side, tile)
			if tile == 0 {
				name = fmt.Sprintf("%d px whole", side)
			}
			b.Run(name, func(b *testing.B) {
				enc := sdxlDecoder(b)
				enc.Tile = tile
				z := make([]float32, side/8*side/8*4)
				distill.Normal(z, 1, distill.EvalNoise, 0)
				for b.Loop() {
					if _, err := enc.Images([][]float32{z}, pipeline.Square(side)); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(peakMemory(b), "peak-MB")
			})
		}
	}
}

func sdxlDecoder(b *testing.B) *Encoders {
	b.Helper()
	config, err := vae.LoadConfig("../../model/golden/testdata/sdxl/vae/config.json")
	if err != nil {
		b.Fatal(err)
	}
	rt, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { rt.Close() })
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	p := &pipeline.Pipeline{VAE: config}
	specs, err := p.VAESpecs(e.Backend)
	if err != nil {
		b.Fatal(err)
	}
	values := engine.Fresh(specs, func(name string, v []float32) {
		for i := range v {
			v[i] = float32(i*i%101) / 100
		}
	}, nil)
	params, err := e.Load(specs, values, nil)
	if err != nil {
		b.Fatal(err)
	}
	return &Encoders{p: p, e: e, bind: engine.Bind{netVAE: params}, n: 1}
}

// peakMemory is the largest resident set of this process so far, in MB.
func peakMemory(b *testing.B) (mb float64) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	if _, err := fmt.Sscan(rest, &mb); err != nil {
		b.Fatal(err)
	}
	return mb / 1024
}
