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
		step    string
		batch   int
		gb      float64
		critic  string
		moments dtypes.DType
		offload int
	}{{"forward", 1, 5.280, "", dtypes.Float32, 0}, {"forward", 4, 5.635, "", dtypes.Float32, 0},
		{"mse-lora", 1, 8.165, "", dtypes.Float32, 0}, {"mse-lora", 4, 10.260, "", dtypes.Float32, 0}, {"mse-lora", 8, 13.015, "", dtypes.Float32, 0},
		{"adv-lora", 1, 19.450, "", dtypes.Float32, 0}, {"adv-lora", 4, 23.036, "", dtypes.Float32, 0}, {"adv-lora", 1, 9.402, "lora", dtypes.BFloat16, 0},
		{"adv-full", 1, 38.415, "", dtypes.Float32, 0}, {"adv-full", 1, 23.182, "", dtypes.Float32, engine.OffloadFrom}} {
		t.Run(fmt.Sprintf("%s-%d%s-%d", c.step, c.batch, c.critic, c.offload), func(t *testing.T) {
			t.Parallel()
			e := engine.New(rt.Backend, dtypes.BFloat16, nn.Layer)
			e.Frozen, e.Offload = dtypes.BFloat16, c.offload
			m, err := plan(e, Presets["sdxl"], Options{Preset: "sdxl", Step: c.step, Batch: c.batch, Rank: 64, Critic: c.critic, Moments: c.moments}, true)
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
