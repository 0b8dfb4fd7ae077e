package bench

import (
	"fmt"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// What is planned at SDXL's size is within 5 % of what was measured on an H100 (arrays and scratch space as the compiled
// programs tell it; README.md has the commands).
func TestPlannedMemoryIsWhatWasMeasured(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	for _, c := range []struct {
		step  string
		batch int
		gb    float64
	}{{"forward", 1, 5.280}, {"forward", 4, 5.635}, {"mse-lora", 1, 8.165}, {"mse-lora", 4, 10.260}, {"adv-lora", 1, 19.449},
		{"adv-lora", 4, 23.036}, {"adv-full", 1, 38.415}} {
		t.Run(fmt.Sprintf("%s-%d", c.step, c.batch), func(t *testing.T) {
			t.Parallel()
			e := engine.New(rt.Backend, dtypes.BFloat16, nn.Layer)
			e.Frozen = dtypes.BFloat16
			m, err := plan(e, Presets["sdxl"], Options{Preset: "sdxl", Step: c.step, Batch: c.batch, Rank: 64}, true)
			if err != nil {
				t.Fatal(err)
			}
			got := float64(m.Peak) / 1e9
			t.Logf("planned %.3f GB, measured %.3f GB: %+.1f %%", got, c.gb, 100*(got/c.gb-1))
			if got > 1.05*c.gb || got < 0.95*c.gb {
				t.Errorf("planned %.3f GB, measured %.3f GB: %+.1f %%", got, c.gb, 100*(got/c.gb-1))
			}
		})
	}
}
