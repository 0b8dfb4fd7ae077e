package cost_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/train/bench"
	"fewstep/train/cost"
)

func sdxlModel() cost.Model {
	return cost.Model{Denoiser: bench.Presets["sdxl"].UNet, Schedule: distill.SDXLSchedule(), Factor: 8, Tokens: 77}
}

var gpu = cost.Device{Flash: true}

// largest is the memory of a recipe's largest phase.
func largest(t *testing.T, c *configs.Recipe) (bytes int64) {
	t.Helper()
	phases, err := cost.Plan(backend(t).Backend, c, sdxlModel(), gpu)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range phases {
		bytes = max(bytes, p.Memory.Total)
	}
	return bytes
}

// The recipe for a small card fits it, and each of its settings is needed for what its comment says of it.
func TestLoRALadderFitsSmallCard(t *testing.T) {
	load := func(set ...string) *configs.Recipe {
		c, err := configs.Load("../../configs/sdxl/lora-16gb.yaml", set...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		set         []string
		least, most float64 // GB
	}{
		{nil, 10, 12},
		{[]string{"train.moments=f32"}, 11.5, 12.5},
		{[]string{"train.moments=f32", "discriminator.target=full"}, 24, 28},
		// The adv-lora: micro-batch 1, gradients not added up, in 22 GB.
		{[]string{"train.moments=f32", "discriminator.target=full", "train.accumulate=1"}, 18, 22},
		{[]string{"discriminator.target=full", "train.accumulate=1"}, 16, 18},
		{[]string{"train.batch=4", "train.accumulate=32"}, 12, 16},
	} {
		if gb := float64(largest(t, load(c.set...))) / 1e9; gb < c.least || gb > c.most {
			t.Errorf("%v: %.2f GB, want %g to %g", c.set, gb, c.least, c.most)
		}
	}
}

// The recipe that trains whole networks on a card of 24 GiB fits it, as its comment says, and not without offload.
func TestFullLadderFitsSmallCard(t *testing.T) {
	load := func(set ...string) *configs.Recipe {
		c, err := configs.Load("../../configs/sdxl/full-24gb.yaml", set...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		set               []string
		least, most, host float64 // GB
	}{
		{nil, 23.2, 23.4, 20.64},
		{[]string{"train.moments=f32"}, 23.2, 23.4, 30.91},
		{[]string{"train.batch=2"}, 24, 24.2, 20.64},
		{[]string{"train.offload=none"}, 40, 41, 0},
	} {
		phases, err := cost.Plan(backend(t).Backend, load(c.set...), sdxlModel(), gpu)
		if err != nil {
			t.Fatal(err)
		}
		var device, host int64
		for _, p := range phases {
			device, host = max(device, p.Memory.Total), max(host, p.Memory.Host)
		}
		if gb := float64(device) / 1e9; gb < c.least || gb > c.most {
			t.Errorf("%v: %.2f GB, want %g to %g", c.set, gb, c.least, c.most)
		}
		if gb := float64(host) / 1e9; math.Abs(gb-c.host) > 0.01 {
			t.Errorf("%v: %.2f GB of the host's, want %g", c.set, gb, c.host)
		}
	}
}

// Sample sheets are drawn where training fits: base and model lie beside each other in bf16, and pictures by eval.batch.
func TestDrawingFitsSmallCards(t *testing.T) {
	for _, c := range []struct {
		recipe      string
		set         []string
		least, most float64 // GB
	}{
		{"lora-16gb", nil, 10.3, 11.1},
		{"full-24gb", nil, 10.3, 11.1},
		{"lora-16gb", []string{"eval.batch=8"}, 11.5, 14},
		{"lora-16gb", []string{"train.frozen=f32"}, 20.5, 21.5},
		{"lora-16gb", []string{"eval.sheet_samples=0"}, 0, 0},
		{"lightning", nil, 13, 17},
	} {
		config, err := configs.Load("../../configs/sdxl/"+c.recipe+".yaml", c.set...)
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := cost.Drawing(backend(t).Backend, config, sdxlModel(), gpu)
		if err != nil {
			t.Fatal(err)
		}
		if gb := float64(bytes) / 1e9; gb < c.least || gb > c.most {
			t.Errorf("%s %v: %.2f GB, want %g to %g", c.recipe, c.set, gb, c.least, c.most)
		}
		if plain := c.set == nil; plain && bytes > largest(t, config) {
			t.Errorf("%s: sheets take %d bytes, more than training", c.recipe, bytes)
		}
	}
}

// What a run keeps of an image and of a caption: 128×128×4 latents, 77 tokens of 2,048 and a pooled text of 1,280, f32.
func TestEncodedSizes(t *testing.T) {
	c, err := configs.Load("../../configs/sdxl/lightning.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if image, caption := sdxlModel().Encoded(c); image != 4*128*128*4 || caption != 4*(77*2048+1280) {
		t.Errorf("%d and %d bytes", image, caption)
	}
}

// Advice names the settings in order of gentleness and holds what it promises.
func TestFit(t *testing.T) {
	load := func(more ...string) (*configs.Recipe, error) {
		return configs.Load("../../configs/sdxl/lightning.yaml", more...)
	}
	for _, c := range []struct {
		limit int64
		want  []string
		lora  bool // only the LoRA phases
	}{
		{53e9, []string{"train.batch=4", "train.accumulate=128"}, false},
		{45e9, []string{"train.moments=bf16", "train.batch=4", "train.accumulate=128"}, false},
		{40e9, []string{"train.moments=bf16", "train.offload=optimizer"}, false},
		{24e9, []string{"train.moments=bf16", "train.offload=optimizer", "train.batch=1", "train.accumulate=512"}, false},
		{12e9, []string{"train.moments=bf16", "train.offload=optimizer", "discriminator.target=lora", "train.batch=2", "train.accumulate=256"}, true},
		{6e9, nil, false},
	} {
		fits, err := cost.Fit(backend(t).Backend, load, sdxlModel(), gpu, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		if c.want == nil {
			if len(fits) > 0 {
				t.Errorf("%d GB: %+v", c.limit/1e9, fits)
			}
			continue
		}
		if len(fits) == 0 || !slices.Equal(fits[0].Set, c.want) || fits[0].Memory > c.limit || fits[0].Host > 0 != slices.Contains(c.want, "train.offload=optimizer") || strings.HasPrefix(fits[0].Effect, "only the phases whose target is lora") != c.lora {
			t.Errorf("%d GB: %+v, want %v", c.limit/1e9, fits, c.want)
			continue
		}
		if !c.lora {
			changed, err := load(fits[0].Set...)
			if err != nil {
				t.Fatal(err)
			}
			if got := largest(t, changed); got != fits[0].Memory {
				t.Errorf("%d GB: the changed recipe takes %d bytes, promised were %d", c.limit/1e9, got, fits[0].Memory)
			}
		}
	}
}
