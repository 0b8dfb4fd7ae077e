package bench

import (
	"fmt"
	"slices"

	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/train/cost"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// flops are the operations of one step as the yardstick does it, whatever is saved or computed again here.
func flops(p Preset, o Options) (float64, error) {
	rt, err := xla.Open(xla.Go, xla.Options{}) // builds graphs only
	if err != nil {
		return 0, err
	}
	defer rt.Close()
	measure := func(b nn.Block, in ...shapes.Shape) (float64, error) {
		n, err := cost.Measure(rt.Backend, b, dtypes.Float32, in...)
		return n.FLOPs * float64(o.Batch*max(o.Accumulate, 1)), err
	}
	switch o.Step {
	case "forward":
		return measure(p.UNet.Network("", nil), inputs(p, 1)...)
	case "vae-encode":
		return measure(p.VAE.Encoder(""), f32(1, p.Side*p.VAE.Factor(), p.Side*p.VAE.Factor(), 3))
	case "vae-decode":
		return measure(p.VAE.Decoder(""), f32(1, p.Side, p.Side, p.VAE.LatentChannels))
	}
	if !slices.Contains(Steps, o.Step) {
		return 0, fmt.Errorf("unknown step %q", o.Step)
	}
	model := cost.Model{Denoiser: p.UNet, Schedule: distill.SDXLSchedule(), Factor: p.VAE.Factor(), Tokens: p.Tokens}
	all, err := cost.ModelFLOPs(rt.Backend, recipe(p, o), model)
	sum := all[o.Step+"/"+o.Step] * float64(o.Batch*max(o.Accumulate, 1))
	if err != nil || !adversarial(o.Step) {
		return sum, err
	}
	// The yardstick puts the start that real and fake share through the discriminator with each of them.
	start, err := measure(p.UNet.Encoder(""), inputs(p, 1)...)
	passes := 3.0
	if o.Critic == "lora" {
		passes = 2 // gradients by inputs alone
	}
	return sum + passes*start, err
}

func adversarial(step string) bool { return step == "adv-lora" || step == "adv-full" }

func isLoRA(step string) bool { return step == "mse-lora" || step == "adv-lora" }

func f32(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// inputs are the denoiser's.
func inputs(p Preset, batch int) []shapes.Shape {
	return family.Inputs(p.UNet, batch, p.Side, p.Side, p.Tokens)
}
