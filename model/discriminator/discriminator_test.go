package discriminator

import (
	"fmt"
	"testing"

	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// A head that is made for a square has the same parameters for features of every shape, those of a head that takes the
// square alone; and none of SDXL's shapes is too narrow for it.
func TestHeadTakesEveryShape(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	backbone := &unet.Config{BlockOutChannels: []int{4, 8, 8}, NormGroups: 2}
	specs := func(c *Config, height, width int) string {
		t.Helper()
		out := ""
		for i, head := range c.Heads("") {
			by, channels := 2, 16
			if i > 0 {
				by, channels = min(i, 2), 2*backbone.BlockOutChannels[i-1]
			}
			of, err := nn.Trace(rt.Backend, head, shapes.Make(dtypes.Float32, 2, height>>by, width>>by, channels))
			if err != nil {
				t.Fatalf("%d×%d: %v", height, width, err)
			}
			out += fmt.Sprintln(of)
		}
		return out
	}
	for _, side := range []int{128, 96, 64, 16} {
		for _, levels := range []bool{false, true} {
			want := specs(&Config{Denoiser: backbone, Channels: 8, Levels: levels}, side, side)
			c := &Config{Denoiser: backbone, Channels: 8, Levels: levels, Side: side}
			for _, shape := range [][2]int{{side, side}, {side / 2, 2 * side}, {2 * side, side / 2}, {side * 3 / 4 / 4 * 4, side * 5 / 4 / 4 * 4}} {
				if got := specs(c, shape[0], shape[1]); got != want {
					t.Errorf("side %d, latents %d×%d:\n%s\nwant\n%s", side, shape[0], shape[1], got, want)
				}
			}
		}
	}
}
