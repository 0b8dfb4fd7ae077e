package unet

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// The same of SDXL's own blocks, at its widths of 320, 640 and 1280. FEWSTEP_SDXL_SIDE is the side of the latents, 128 in
// training; the default is what a CPU does in seconds.
func TestGradientsInBF16AtSDXLWidths(t *testing.T) {
	if testing.Short() {
		t.Skip("seconds of arithmetic")
	}
	side := 32
	if s := os.Getenv("FEWSTEP_SDXL_SIDE"); s != "" {
		var err error
		if side, err = strconv.Atoi(s); err != nil || side < 4 {
			t.Fatalf("FEWSTEP_SDXL_SIDE=%q: want a number of at least 4", s)
		}
	}
	u := &Config{BlockOutChannels: []int{320, 640, 1280}, OutChannels: 4, AdditionTimeDim: 256, LinearProjection: true, NormGroups: 32, NormEps: 1e-5}
	for level, width := range u.BlockOutChannels {
		s := side >> level
		blocks := map[string]struct {
			block nn.Block
			in    [][]int
		}{"resnet": {u.resnet("", width, false), [][]int{{1, s, s, width}, {1, 4 * 320}}}}
		if level > 0 {
			blocks["transformer"] = struct {
				block nn.Block
				in    [][]int
			}{transformerBlock("", width, width/64, false), [][]int{{1, s * s, width}, {1, 77, 2048}}}
		}
		for kind, b := range blocks {
			t.Run(fmt.Sprintf("%s of %d, %d×%d", kind, width, s, s), func(t *testing.T) {
				names, exact := gradients(t, b.block, dtypes.Float32, nil, b.in)
				_, rough := gradients(t, b.block, dtypes.BFloat16, nil, b.in)
				worst := 1.0
				for i, name := range names {
					cos := cosine(exact[i], rough[i])
					worst = min(worst, cos)
					if !(cos >= 0.999) {
						t.Errorf("gradient by %s: cosine %.5f", name, cos)
					}
				}
				t.Logf("%d gradients, least cosine %.6f", len(names), worst)
			})
		}
	}
}
