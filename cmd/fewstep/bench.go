package main

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/train/bench"
	"fewstep/train/cost"
)

func init() { register(newBench) }

func newBench(a *app) *cobra.Command {
	var o bench.Options
	var granularity, compute string
	c := &cobra.Command{
		Use:   "bench",
		Short: "Time one kind of training step on random weights and inputs.",
		Long: "Times one kind of training step on random weights and inputs.\n\n" +
			"Writes one line of JSON: the first call, the median and the least of the rest, samples per second, and what was\n" +
			"compiled. It trains nothing and reads no files.\n\n" +
			"Steps: forward (one network call), mse-lora and mse-full (guided teacher, then the student), adv-lora and adv-full\n" +
			"(teacher, discriminator and student).",
		Example: "  fewstep bench --preset mini --step adv-lora --batch 16\n  fewstep bench --preset sdxl --step mse-lora --batch 8 --compute bf16 --granularity layer",
		Args:    cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			level, ok := cost.Levels[granularity]
			if !ok {
				return withHint(usageErrorf("unknown granularity %q", granularity), "choose network, stage or layer")
			}
			dtype, ok := cost.ComputeTypes[compute]
			if !ok {
				return withHint(usageErrorf("unknown compute type %q", compute), "choose f32 or bf16")
			}
			if _, ok := bench.Presets[o.Preset]; !ok {
				return withHint(usageErrorf("unknown preset %q", o.Preset), "choose mini or sdxl")
			}
			if !slices.Contains(bench.Steps, o.Step) {
				return withHint(usageErrorf("unknown step %q", o.Step), "choose one of %s", strings.Join(bench.Steps, ", "))
			}
			if o.Batch < 1 || o.Rank < 1 || o.Iters < 1 {
				return usageErrorf("--batch, --rank and --iters must be at least 1")
			}
			rt, err := a.openBackend(xla.Options{})
			if err != nil {
				return err
			}
			defer rt.Close()
			device := rt.Kind
			if rt.Kind != xla.CUDA {
				device += "/" + runtime.GOARCH
			}
			r, err := bench.Run(engine.New(rt.Backend, dtype, level), device, o)
			if err != nil {
				return err
			}
			return json.NewEncoder(a.stdout).Encode(r)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Preset, "preset", "mini", "network and input sizes: mini or sdxl")
	f.StringVar(&o.Step, "step", "forward", strings.Join(bench.Steps, ", "))
	f.IntVar(&o.Batch, "batch", 16, "samples per step")
	f.IntVar(&o.Rank, "rank", 64, "of the adapters")
	f.IntVar(&o.Iters, "iters", 5, "timed steps, after one that compiles and two that warm up")
	f.StringVar(&granularity, "granularity", "network", "size of a compiled program: network, stage or layer")
	f.StringVar(&compute, "compute", "f32", "arithmetic: f32 or bf16")
	return c
}
