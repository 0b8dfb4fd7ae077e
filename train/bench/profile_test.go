package bench

import (
	"math"
	"strings"
	"testing"

	"fewstep/internal/xla"
)

const ms = 1e9 // picoseconds

// recordedOnGPU is what a GPU's profiler gives: kernels on its queue, and on some plugins the programs beside them.
func recordedOnGPU(programs ...xla.Event) *xla.Recording {
	gpu := xla.Plane{Name: "/device:GPU:0", Lines: []xla.Line{{Name: "Stream #7(Compute)", Events: []xla.Event{
		{Name: "gemm", Start: 0, Duration: 3 * ms}, {Name: "norm", Start: 4 * ms, Duration: ms}, {Name: "gemm", Start: 5 * ms, Duration: 3 * ms}}}}}
	if len(programs) > 0 {
		gpu.Lines = append(gpu.Lines, xla.Line{Name: "XLA Modules", Events: programs})
	}
	host := xla.Plane{Name: "/host:CPU", Lines: []xla.Line{{Name: "main", Events: []xla.Event{{Name: "dispatch", Duration: 9 * ms}}}}}
	return &xla.Recording{Planes: []xla.Plane{gpu, host}}
}

// Without programs in the recording, as on CUDA, the table is of what the engine queued, and says so; with them it is of
// theirs. The kernels are the device's in both.
func TestProgramTable(t *testing.T) {
	queued := []xla.Event{{Name: "forward_conv", Duration: ms}, {Name: "update", Start: ms, Duration: 4 * ms}, {Name: "forward_conv", Start: 5 * ms, Duration: ms}}
	kernels := []string{"kernels: 2 kinds, 7.00 ms", "    6.000 ms  85.7 %     2 × gemm", "    1.000 ms  14.3 %     1 × norm"}
	for _, c := range []struct {
		name string
		rec  *xla.Recording
		want []string
	}{
		{"CUDA", recordedOnGPU(), []string{"programs, by the time that the host took to queue them: 2 kinds, 6.00 ms",
			"    4.000 ms  66.7 %     1 × update", "    2.000 ms  33.3 %     2 × forward_conv"}},
		{"programs recorded", recordedOnGPU(xla.Event{Name: "backward", Duration: 8 * ms}), []string{"programs: 1 kinds, 8.00 ms",
			"    8.000 ms 100.0 %     1 × backward"}},
	} {
		var b strings.Builder
		idle := summarise(c.rec, queued, &b)
		if got, want := b.String(), strings.Join(append(c.want, kernels...), "\n")+"\n"; got != want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, want)
		}
		if math.Abs(idle-1.0/8) > 1e-9 { // from 3 to 4 of 8 ms
			t.Errorf("%s: idle %g, want 1/8", c.name, idle)
		}
	}
}
