package train_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
	"fewstep/train"
	"fewstep/train/monitor"
)

// dealt is three updates of a phase with all networks, over batches of 8; full is one of every weight.
const (
	dealt = `
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 24, lr: 1e-3}]}
`
	full = `
  - {name: "8", teacher_steps: 16, phases: [{name: full-uncond, samples: 4, lr: 1e-3}]}
`
)

// layered are the settings of large networks.
var layered = []string{"train.granularity=layer", "train.calls=layer"}

// on walks a recipe on so many virtual devices, stopping after some updates; 0 = to its end.
func on(t *testing.T, devices int, c *configs.Recipe, dir string, after int) {
	t.Helper()
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: devices})
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Until: "8", Devices: devices, Split: true, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler),
		Progress: &stopAt{after, stop}})
	if err != nil {
		t.Fatal(err)
	}
	_, walked := r.Walk(ctx)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if after > 0 && !errors.Is(walked, train.ErrInterrupted) || after == 0 && walked != nil {
		t.Fatalf("to be interrupted after %d updates: %v", after, walked)
	}
}

// nearly compares two runs' weights, and every value of their statistics, relative to the largest of its tensor or 1.
func nearly(t *testing.T, want, got string, tolerance float64) {
	t.Helper()
	var worst float64
	var where string
	differs := func(by float64, name string) {
		if !(by <= worst) {
			worst, where = by, name
		}
	}
	files := 0
	for name := range made(t, want) {
		if !strings.HasSuffix(name, ".safetensors") {
			continue
		}
		files++
		a, b := tensorsOf(t, filepath.Join(want, name)), tensorsOf(t, filepath.Join(got, name))
		if len(a) == 0 || len(a) != len(b) {
			t.Fatalf("%s: %d tensors and %d", name, len(a), len(b))
		}
		for tensor, v := range a {
			var most, apart float64
			for i := range v {
				most, apart = max(most, math.Abs(float64(v[i]))), max(apart, math.Abs(float64(v[i]-b[tensor][i])))
			}
			differs(apart/max(most, 1), name+": "+tensor)
		}
	}
	if files < 2 {
		t.Fatalf("only %d files of weights", files)
	}
	records := [2][]monitor.Record{}
	for i, dir := range []string{want, got} {
		var err error
		if records[i], err = monitor.ReadStats(filepath.Join(dir, "stats.jsonl")); err != nil {
			t.Fatal(err)
		}
	}
	if len(records[0]) < 3 || len(records[0]) != len(records[1]) {
		t.Fatalf("%d and %d records", len(records[0]), len(records[1]))
	}
	for i, r := range records[0] {
		q := records[1][i]
		if r.Samples != q.Samples || r.Phase != q.Phase || len(r.Values) != len(q.Values) {
			t.Errorf("record %d: %+v and %+v", i, r, q)
		}
		for name, v := range r.Values {
			differs(math.Abs(v-q.Values[name])/max(math.Abs(v), 1), fmt.Sprintf("record %d: %s", i, name))
		}
	}
	t.Logf("largest difference %.2g, of %s", worst, where)
	if !(worst <= tolerance) {
		t.Errorf("the runs differ by %.2g", worst)
	}
}

func tensorsOf(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]float32{}
	for _, name := range f.Names() {
		out[name] = weightstest.Floats(t, f, name)
	}
	return out
}

// tolerance is how far apart runs on different numbers of devices may be, in units of the largest value of a tensor or 1.
// Adam moves a weight by the learning rate, here 1e-3, whatever its gradient's size, so that one whose gradient is nothing
// but rounding may go either way: an epsilon above the rounding keeps the runs comparable weight by weight.
const tolerance = 1e-4

// A run on two devices equals the run on one up to the order of sums; a run that is stopped goes on with the same bits on
// the same number of devices, and within the tolerance on another number.
func TestDevicesChangeNoRun(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder several times")
	}
	recipe := with(t, tiny(t), dealt)
	both := func(t *testing.T, set ...string) (c *configs.Recipe, one, two string) {
		t.Helper()
		c, err := configs.Load(recipe, append(set, "train.adam_epsilon=1e-4")...)
		if err != nil {
			t.Fatal(err)
		}
		one, two = t.TempDir(), t.TempDir()
		on(t, 1, c, one, 0)
		on(t, 2, c, two, 0)
		nearly(t, one, two, tolerance)
		return c, one, two
	}
	t.Run("split", func(t *testing.T) { both(t, "train.batch=8") })
	t.Run("layer", func(t *testing.T) {
		c, one, two := both(t, append([]string{"train.batch=4", "train.accumulate=2", "train.ema=0.9", "train.clip_norm=1"}, layered...)...)
		again, moved := t.TempDir(), t.TempDir()
		on(t, 2, c, again, 1)
		if err := os.CopyFS(moved, os.DirFS(again)); err != nil {
			t.Fatal(err)
		}
		on(t, 2, c, again, 0)
		same(t, made(t, two), made(t, again))
		on(t, 1, c, moved, 1)
		on(t, 4, c, moved, 0)
		nearly(t, one, moved, tolerance)
	})
}

// Sharded training state changes no weight, and a run may go on with it or without: in bf16 the devices compute with copies
// of masters that their owners keep.
func TestShardedIsReplicated(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder several times")
	}
	recipe := with(t, tiny(t), full)
	load := func(shard string) *configs.Recipe {
		t.Helper()
		c, err := configs.Load(recipe, append([]string{"train.batch=2", "train.ema=0.9", "train.compute=bf16", "train.frozen=bf16", "train.shard=" + shard}, layered...)...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	replicated, sharded := t.TempDir(), t.TempDir()
	on(t, 2, load("replicated"), replicated, 0)
	on(t, 2, load("sharded"), sharded, 1)
	on(t, 2, load("replicated"), sharded, 0)
	nearly(t, replicated, sharded, 1e-6) // the weights are the same bits; of norms the sums' order differs
}

// What cannot be dealt out is refused before there is a run directory.
func TestDevicesRefused(t *testing.T) {
	recipe := tiny(t)
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: 2})
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	for want, c := range map[string]struct {
		devices int
		set     string
	}{
		"3 devices are asked for, and this process drives 2":             {3, "train.batch=6"},
		"train.batch is 3, and 2 devices take equal parts of it: choose": {2, "train.batch=3"},
	} {
		config, err := configs.Load(recipe, c.set)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "run")
		if _, err := train.Open(t.Context(), config, train.Options{Dir: dir, Devices: c.devices, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("a run directory was made")
		}
	}
	if _, err := configs.Load(recipe, "train.reduce=f16"); err == nil || !strings.Contains(err.Error(), "train.reduce must be one of f32, bf16") {
		t.Errorf("train.reduce=f16: %v", err)
	}
}
