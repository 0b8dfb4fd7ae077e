package train_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"testing"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train"
	"fewstep/train/monitor"
)

// asked is a context that ends when it is asked for the n-th time after it was armed.
type asked struct {
	context.Context
	stop context.CancelFunc
	n    int

	mu    sync.Mutex
	armed bool
}

func (a *asked) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.armed {
		if a.n--; a.n == 0 {
			a.stop()
		}
	}
	return a.Context.Err()
}

// walkAsked goes on with a run until its context is asked for the n-th time after the first update was told of; 0 = to the end. It returns the number of updates that were made.
func walkAsked(t *testing.T, rt *xla.Runtime, devices int, c *configs.Recipe, dir string, n int) (updates int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	a := &asked{Context: ctx, stop: stop, n: n}
	shown := atRecord(func(r monitor.Record) {
		if r.Kind == monitor.KindStep {
			updates++
			a.mu.Lock()
			a.armed = true
			a.mu.Unlock()
		}
	})
	r, err := train.Open(ctx, c, train.Options{Dir: dir, Until: "8", Devices: devices, Split: true, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler), Progress: shown})
	if err != nil {
		t.Fatal(err)
	}
	_, walked := r.Walk(a)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n > 0 && !errors.Is(walked, train.ErrInterrupted) || n == 0 && walked != nil {
		t.Fatalf("to be interrupted when it is asked for the %dth time: %v", n, walked)
	}
	return updates
}

// A run that is to stop leaves the update under way before its next micro-batch, as long as no network was updated; after that it
// completes the update. Continued, it comes to the bytes of one that was not stopped.
func TestUpdateIsLeft(t *testing.T) {
	const before, within = 1, 2 // updates that are made
	for name, c := range map[string]struct {
		kind    string
		devices int
		stages  string
		set     []string
		asks    map[int]int // number of the question, to the updates that were made
	}{
		// Each micro-batch is asked for once before the teacher's calls and once before it is trained on.
		"mse": {xla.Go, 1, `
  - {name: "8", like: "32", teacher_steps: 32, student_steps: 8, guidance: 2, phases: [{name: mse-lora, samples: 20, lr: 1e-3}]}
`, []string{"train.batch=1", "train.accumulate=4"}, map[int]int{1: before, 2: before, 5: before, 9: before, 10: within}},
		"adversarial, the discriminator first": {xla.Go, 1, adversarial, []string{"train.batch=1", "train.accumulate=4", "stages.*.phases.*.samples=20"},
			map[int]int{2: before, 9: before, 10: within}},
		"one micro-batch": {xla.Go, 1, adversarial, []string{"train.batch=4", "stages.*.phases.*.samples=20"}, map[int]int{3: before, 4: within}},
		"a gate":          {xla.Go, 1, adversarial, []string{"train.batch=2", "train.accumulate=2", "stages.*.phases.*.samples=20", "stages.8.phases.lora-cond.gate=0.4"}, map[int]int{5: before}},
		"block by block":  {xla.Go, 1, adversarial, []string{"train.batch=2", "train.accumulate=2", "stages.*.phases.*.samples=20", "train.granularity=layer", "train.calls=layer"}, map[int]int{5: before}},
		"two devices, dealt out": {xla.CPU, 2, adversarial, []string{"train.batch=2", "train.accumulate=2", "stages.*.phases.*.samples=20", "train.granularity=layer", "train.calls=layer",
			"train.shard=sharded"}, map[int]int{4: before}},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && c.kind != xla.Go {
				t.Skip("compiles")
			}
			recipe, err := configs.Load(with(t, tiny(t), c.stages), append(c.set, "train.checkpoint_samples=0")...)
			if err != nil {
				t.Fatal(err)
			}
			rt, err := xla.Open(c.kind, xla.Options{Devices: c.devices})
			if err != nil {
				xlatest.Missing(t, err)
			}
			defer rt.Close()
			straight := filepath.Join(t.TempDir(), "straight")
			if n := walkAsked(t, rt, c.devices, recipe, straight, 0); n != 5 {
				t.Fatalf("%d updates", n)
			}
			want := made(t, straight)
			for ask, updates := range c.asks {
				dir := filepath.Join(t.TempDir(), "left")
				if n := walkAsked(t, rt, c.devices, recipe, dir, ask); n != updates {
					t.Errorf("stopped at question %d: %d updates are made, want %d", ask, n, updates)
				}
				if n := walkAsked(t, rt, c.devices, recipe, dir, 0); n != 5-updates {
					t.Errorf("stopped at question %d, continued: %d updates, want %d", ask, n, 5-updates)
				}
				if got := made(t, dir); len(want) < 3 || !maps.Equal(want, got) {
					t.Errorf("stopped at question %d, continued: the results differ, of %d files", ask, len(want))
				}
			}
		})
	}
}
