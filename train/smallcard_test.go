package train_test

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
	"fewstep/train/monitor"
)

// onlyAdapters are short stages whose students, teachers and discriminators all lie over one base.
const onlyAdapters = `
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: [{name: mse-lora, samples: 4, lr: 1e-3}]}
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 8, lr: 1e-3}, {name: lora-uncond, samples: 4, lr: 1e-3}]}
`

// Settings of configs/sdxl/lora-16gb.yaml.
var smallCard = []string{"discriminator.target=lora", "train.moments=bf16"}

// A ladder of adapters alone, with bf16 moments and a discriminator of adapters: an interrupted run ends with the same
// bytes, whether blocks are walked or updates split, and a discriminator that was carried on goes on from its adapters.
func TestOnlyAdapters(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder four times")
	}
	recipe := with(t, tiny(t), onlyAdapters)
	for name, set := range map[string][]string{
		"layer": {"train.granularity=layer", "train.calls=layer", "train.compute=bf16", "train.frozen=bf16", "train.batch=1", "train.accumulate=2"},
		"split": {"train.batch=2"},
	} {
		t.Run(name, func(t *testing.T) {
			straight, broken := t.TempDir(), t.TempDir()
			set := append(set, smallCard...)
			walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil, set...)
			walk(t, xla.Go, recipe, broken, "8", xla.Options{}, []int{3, 2}, set...)
			same(t, made(t, straight), made(t, broken))
			finite(t, straight)
			critic := func(phase string) *weights.File {
				f, err := weights.Open(filepath.Join(straight, "stages", "8", phase, "result", "discriminator.safetensors"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				return f
			}
			first, second := critic("lora-cond"), critic("lora-uncond")
			moved := 0
			for _, name := range first.Names() {
				if !engine.IsLoRA(name) && !strings.HasPrefix(name, "head.") {
					t.Fatalf("the discriminator's file holds %s, which nothing trains", name)
				}
				if !strings.HasSuffix(name, ".lora_up") {
					continue
				}
				a, b := weightstest.Floats(t, first, name), weightstest.Floats(t, second, name)
				for i := range a {
					if a[i] != 0 {
						moved++ // they begin at zero
					}
					if d := float64(a[i] - b[i]); math.Abs(d) > 0.02 { // two updates of 1e-3
						t.Fatalf("%s is %g after the first phase and %g after the second, which goes on from it", name, a[i], b[i])
					}
				}
			}
			if moved == 0 {
				t.Error("no adapter of the discriminator has moved")
			}
		})
	}
}

// A ladder whose optimizers' state and added up gradients lie in the host's memory ends with the same bytes as one without,
// and may be interrupted and go on either way.
func TestOffloadOnLadder(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder three times")
	}
	recipe := with(t, tiny(t), `
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 4, lr: 1e-3}, {name: merge}, {name: full-uncond, samples: 8, lr: 1e-3}]}
`)
	set := []string{"train.granularity=layer", "train.calls=layer", "train.moments=bf16", "train.ema=0.9", "train.batch=1", "train.accumulate=2"}
	rt, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	load := func(more ...string) *configs.Recipe {
		c, err := configs.Load(recipe, append(slices.Clone(set), more...)...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	none, offload := load(), load("train.offload=optimizer")
	device, host, both := t.TempDir(), t.TempDir(), t.TempDir()
	if bytes := walkOn(t, rt.Backend, none, device, "8", 0); bytes != 0 {
		t.Errorf("without offload %d bytes are in the host's memory", bytes)
	}
	if bytes := walkOn(t, rt.Backend, offload, host, "8", 0); bytes == 0 {
		t.Error("with offload nothing is in the host's memory")
	}
	same(t, made(t, device), made(t, host))
	walkOn(t, rt.Backend, offload, both, "8", 3)
	walkOn(t, rt.Backend, none, both, "8", 2)
	walkOn(t, rt.Backend, offload, both, "8", 0)
	same(t, made(t, device), made(t, both))
}

// With moments in bf16 a phase goes the way that it goes with f32's: as far, to the same place but for noise.
func TestBFloat16MomentsOnLadder(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a phase twice")
	}
	recipe := with(t, tiny(t), `
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: [{name: mse-full, samples: 64, lr: 1e-3}]}
`)
	results := map[string]*weights.File{}
	losses := map[string][]float64{}
	for _, moments := range []string{"f32", "bf16"} {
		dir := t.TempDir()
		walk(t, xla.Auto, recipe, dir, "16", xla.Options{}, nil, "train.batch=2", "train.moments="+moments)
		f, err := weights.Open(filepath.Join(dir, "stages", "16", "mse-full", "result", "student.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		results[moments] = f
		records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if loss, ok := r.Values[monitor.Loss]; ok {
				losses[moments] = append(losses[moments], loss)
			}
		}
	}
	base, err := weights.OpenModel(filepath.Join(filepath.Dir(recipe), "tinymodel", "unet"))
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	var apart, way float64
	for _, name := range results["f32"].Names() {
		from, a, b := weightstest.Floats(t, base, name), weightstest.Floats(t, results["f32"], name), weightstest.Floats(t, results["bf16"], name)
		for i := range a {
			apart += math.Pow(float64(a[i]-b[i]), 2)
			way += math.Pow(float64(a[i]-from[i]), 2)
		}
	}
	d := math.Sqrt(apart / way)
	t.Logf("after %d updates the weights are %.4f of their way apart", len(losses["f32"]), d)
	if d > 0.05 || d == 0 {
		t.Errorf("the weights are %g of their way apart", d)
	}
	if len(losses["f32"]) == 0 || len(losses["f32"]) != len(losses["bf16"]) {
		t.Fatalf("%d and %d losses", len(losses["f32"]), len(losses["bf16"]))
	}
	for i, want := range losses["f32"] {
		if got := losses["bf16"][i]; math.Abs(got/want-1) > 0.02 {
			t.Errorf("loss %d is %g, with f32 moments %g", i, got, want)
		}
	}
}
