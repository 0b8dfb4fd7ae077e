package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/configs"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/train/bench"
)

func init() { register(newBench) }

func newBench(a *app) *cobra.Command {
	var o bench.Options
	var granularity, calls, compute, frozen, moments, offload, reduce, shard, devices, table string
	var split, plain, sites bool
	c := &cobra.Command{
		Use:   "bench",
		Short: "Time one kind of training step on random weights and inputs.",
		Long: "Times one kind of training step on random weights and inputs.\n\n" +
			"Writes one line of JSON: the first call, the median and the least of the rest, samples per second, and what was\n" +
			"compiled. It trains nothing and reads no files.\n\n" +
			"Steps: forward (one network call), mse-lora and mse-full (guided teacher, then the student), adv-lora and adv-full\n" +
			"(teacher, discriminator and student), vae-encode and vae-decode.",
		Example: "  fewstep bench --preset mini --step adv-lora --batch 16\n  fewstep bench --preset sdxl --step mse-lora --batch 4 --compute bf16 --frozen bf16 --granularity layer",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if table != "" {
				f, err := os.Open(table)
				if err != nil {
					return err
				}
				defer f.Close()
				if err := bench.Table(f, a.stdout); err != nil {
					return fmt.Errorf("%s: %w", table, err)
				}
				return nil
			}
			level, ok := method.Levels[granularity]
			callLevel, okCalls := method.Levels[calls]
			if !ok || !okCalls {
				return withHint(usageErrorf("unknown granularity %q or %q", granularity, calls), "choose network, stage or layer")
			}
			dtype, ok := method.ComputeTypes[compute]
			kept, okKept := method.ComputeTypes[frozen]
			var okMoments bool
			o.Moments, okMoments = method.ComputeTypes[moments]
			if !ok || !okKept || !okMoments {
				return withHint(usageErrorf("unknown type %q, %q or %q", compute, frozen, moments), "choose f32 or bf16")
			}
			if o.Reduce, ok = method.ComputeTypes[reduce]; !ok {
				return withHint(usageErrorf("unknown type %q to add gradients up in", reduce), "choose f32 or bf16")
			}
			if o.Critic != "full" && o.Critic != "lora" {
				return withHint(usageErrorf("unknown discriminator %q", o.Critic), "choose full or lora")
			}
			if _, ok := bench.Presets[o.Preset]; !ok {
				return withHint(usageErrorf("unknown preset %q", o.Preset), "choose mini, sd15, sd21 or sdxl")
			}
			if !slices.Contains(bench.Steps, o.Step) {
				return withHint(usageErrorf("unknown step %q", o.Step), "choose one of %s", strings.Join(bench.Steps, ", "))
			}
			if o.Batch < 1 || o.Rank < 1 || o.Iters < 1 || o.Accumulate < 1 || o.Side < 0 {
				return usageErrorf("--batch, --accumulate, --rank and --iters must be at least 1, and --side not negative")
			}
			if shard != configs.ShardReplicated && shard != configs.ShardSharded {
				return withHint(usageErrorf("unknown way %q to spread training state", shard), "choose replicated or sharded")
			}
			if offload != configs.OffloadNone && offload != configs.OffloadOptimizer {
				return withHint(usageErrorf("unknown offload %q", offload), "choose none or optimizer")
			}
			if offload == configs.OffloadOptimizer && level == nn.Network {
				return withHint(usageErrorf("--offload optimizer needs updates block by block"), "choose --granularity stage or layer")
			}
			o.Summary = a.stderr
			var r *bench.Result
			err := interruptible(cmd.Context(), nil, func() error {
				rt, n, err := a.openDevices(devices, xla.Options{Plain: plain})
				if err != nil {
					return err
				}
				defer rt.Close()
				o.Devices = n
				if o.Batch%o.Devices != 0 {
					return withHint(usageErrorf("--batch is %d, and %d devices take equal parts of it", o.Batch, o.Devices), "choose a multiple of %d", o.Devices)
				}
				e := engine.New(rt.Backend, dtype, level)
				if !cmd.Flags().Changed("split") { // as runs have it
					split = rt.Kind != xla.CUDA
				}
				e.Calls, e.Frozen, e.Split = callLevel, kept, split && level == nn.Network
				if !cmd.Flags().Changed("sites") {
					sites = rt.Sites()
				}
				e.Sites, e.Shard = sites, shard == configs.ShardSharded
				if offload == configs.OffloadOptimizer {
					e.Offload = engine.OffloadFrom
				}
				r, err = bench.Run(rt, e, o)
				return err
			})
			if cmd.Context().Err() != nil {
				return withCode(exitInterrupted, errors.New("interrupted; nothing was measured"))
			}
			if err != nil {
				return err
			}
			return json.NewEncoder(a.stdout).Encode(r)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Preset, "preset", "mini", "network and input sizes: mini, sd15, sd21 or sdxl")
	f.StringVar(&o.Step, "step", "forward", strings.Join(bench.Steps, ", "))
	f.IntVar(&o.Batch, "batch", 16, "samples of a micro-batch, over all devices")
	f.IntVar(&o.Accumulate, "accumulate", 1, "micro-batches of a training step")
	f.StringVar(&devices, "devices", "1", devicesUsage)
	f.StringVar(&table, "table", "", "measure nothing: print the lines of this file, results on one and on several devices, as a table of how they scale")
	f.StringVar(&shard, "shard", "replicated", "where training state lies: replicated on every device, or sharded over them, at granularity stage or layer")
	f.StringVar(&reduce, "reduce", "f32", "how gradients are added up over the devices: f32 or bf16")
	f.Int64Var(&o.Bucket, "reduce-bucket", 0, "MiB of gradients that are added up at once, at least; 0 = each block's")
	f.BoolVar(&o.Apart, "reduce-apart", false, "gradients are added up between the backward passes of two blocks, and not beside the second")
	f.IntVar(&o.Rank, "rank", 64, "of the adapters")
	f.IntVar(&o.Side, "side", 0, "side of the latents; 0 = the preset's")
	f.IntVar(&o.Iters, "iters", 5, "timed steps, after one that compiles and two that warm up")
	f.StringVar(&granularity, "granularity", "network", "size of a compiled program: network, stage or layer")
	f.StringVar(&calls, "calls", "layer", "size of a program of calls without gradients, where that is larger")
	f.StringVar(&compute, "compute", "f32", "arithmetic: f32 or bf16")
	f.StringVar(&frozen, "frozen", "f32", "how weights that nothing trains are kept: f32 or bf16")
	f.StringVar(&moments, "moments", "f32", "how Adam's moments are kept: f32, or bf16 with stochastic rounding")
	f.StringVar(&offload, "offload", "none", "what is kept in the host's memory: none, or optimizer = its state, at granularity stage or layer")
	f.StringVar(&o.Critic, "critic", "full", "what is trained of the discriminator's backbone: full, or lora = adapters over the teacher's weights")
	f.BoolVar(&split, "split", false, "at granularity network: updates apart from the gradient, adapters folded into their weights; left out = as runs have it, on CPUs only")
	f.BoolVar(&sites, "sites", false, "programs of its own for every place of a network, which spares rewriting CUDA graphs; left out = as runs have it, on CUDA where programs are kept")
	f.BoolVar(&plain, "plain", false, "wait for every program, copy what is updated, keep no compiled programs: go-xla as it is")
	f.StringVar(&o.Profile, "profile", "", "write a recording of one more step to this file: .json for Perfetto, .pb for TensorBoard; sums it up on stderr")
	f.Float64Var(&o.PeakTFLOPs, "peak-tflops", 0, "the device's peak, to tell the share of it that was reached; 0 = known for some devices")
	return c
}
