package xla

import (
	"os"
	"sync"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// A large array is on the device when its upload returns: the caller may write over its memory at once. With
// FEWSTEP_TEST_UPLOAD=1 eight goroutines try for two minutes; on a GPU, several such processes at once load it best.
func TestLargeUploads(t *testing.T) {
	seconds, uploaders := 2, 2
	if os.Getenv("FEWSTEP_TEST_UPLOAD") != "" {
		seconds, uploaders = 120, 8
	}
	rt := pluginOrSkip(t)
	const n = 48 << 20 / 4
	shape := shapes.Make(dtypes.Float32, n)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var all sync.WaitGroup
	for u := range uploaders {
		all.Go(func() {
			memory, back := make([]float32, n), make([]float32, n)
			for turn := 0; turn == 0 || time.Now().Before(end); turn++ {
				base := float32(u*1000 + turn%1000)
				for i := range memory {
					memory[i] = base + float32(i%4096)
				}
				b, err := rt.Backend.BufferFromFlatData(0, memory, shape)
				if err != nil {
					t.Error(err)
					return
				}
				clear(memory)
				if err := b.ToFlatData(back); err != nil {
					t.Error(err)
					return
				}
				_ = b.Finalize()
				for i, v := range back {
					if v != base+float32(i%4096) {
						t.Errorf("uploader %d, turn %d: value %d of %d is %g, want %g", u, turn, i, n, v, base+float32(i%4096))
						return
					}
				}
			}
		})
	}
	all.Wait()
}
