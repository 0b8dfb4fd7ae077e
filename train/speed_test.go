package train_test

import (
	"log/slog"
	"testing"
	"time"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/train"
	"fewstep/train/monitor"
	"fewstep/train/tinypipeline"
)

// clock takes the time of a run's updates, those of the first seconds left out: they compile.
type clock struct {
	warm, updates int
	from, to      time.Time
}

func (c *clock) Update(r monitor.Record) error {
	if r.Kind == monitor.KindStep {
		c.to = time.Now()
		if c.updates++; c.updates == c.warm {
			c.from = c.to
		}
	}
	return nil
}

func (c *clock) Close() error { return nil }

// What the host takes for an update: the tiny networks leave a device next to nothing to do.
//
//	go test ./train -run ^$ -bench Updates -cpuprofile cpu.out
func BenchmarkUpdates(b *testing.B) {
	rt, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		b.Skip(err)
	}
	defer rt.Close()
	recipe, err := tinypipeline.Write(b.TempDir(), "../model/clip/testdata")
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []struct{ name, stages string }{
		{"mse-full", `  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: [{name: mse-full, samples: 3200, lr: 1e-6}]}`},
		{"lora-cond", `  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 3200, lr: 1e-6}]}`},
		{"full-uncond", `  - {name: "8", teacher_steps: 16, phases: [{name: full-uncond, samples: 3200, lr: 1e-6}]}`},
	} {
		b.Run(kind.name, func(b *testing.B) {
			for b.Loop() {
				c, err := configs.Load(with(b, recipe, kind.stages), "train.batch=8", "train.checkpoint_samples=0")
				if err != nil {
					b.Fatal(err)
				}
				seen := &clock{warm: 50}
				r, err := train.Open(b.Context(), c, train.Options{Dir: b.TempDir(), Backend: rt.Backend, Log: slog.New(slog.DiscardHandler), Progress: seen})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.Walk(b.Context()); err != nil {
					b.Fatal(err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(seen.to.Sub(seen.from).Microseconds())/float64(seen.updates-seen.warm), "µs/update")
			}
		})
	}
}
