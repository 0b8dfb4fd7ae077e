package bench

import (
	"fmt"

	"fewstep/internal/xla"
	"fewstep/model/discriminator"
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
	measure := func(b nn.Block, in ...shapes.Shape) float64 {
		if err != nil {
			return 0
		}
		var n cost.Network
		n, err = cost.Measure(rt.Backend, b, dtypes.Float32, in...)
		return n.FLOPs * float64(o.Batch*max(o.Accumulate, 1))
	}
	in := inputs(p, 1)
	plain := measure(p.UNet.Network("", nil), in...)
	var sum float64
	switch o.Step {
	case "forward":
		return plain, err
	case "vae-encode":
		return measure(p.VAE.Encoder(""), f32(1, p.Side*p.VAE.Factor(), p.Side*p.VAE.Factor(), 3)), err
	case "vae-decode":
		return measure(p.VAE.Decoder(""), f32(1, p.Side, p.Side, p.VAE.LatentChannels)), err
	case "mse-lora", "mse-full":
		sum = 8 * plain
	case "adv-lora", "adv-full":
		last := p.UNet.Levels() - 1
		small, width := p.Side>>last, p.UNet.Widths()[last]
		d := &discriminator.Config{UNet: p.UNet}
		encoder := measure(d.Backbone(""), in...)
		head := measure(d.Head(""), f32(1, small, small, 2*width))
		// Two teacher calls. Real and fake, each with its start, through the discriminator with all gradients. Fake and
		// start through it once more, with gradients by the fake.
		all := 3.0
		if o.Critic == "lora" {
			all = 2 // by inputs
		}
		sum = 2*plain + all*4*encoder + 3*2*head + 3*encoder + 2*head
	default:
		return 0, fmt.Errorf("unknown step %q", o.Step)
	}
	calls, gradient := 1.0, 2.0 // by inputs and weights
	if isLoRA(o.Step) {
		gradient = 1
	}
	if o.Step == "adv-lora" || o.Step == "adv-full" {
		calls = 2 // the sample for the discriminator, and the one that learns
	}
	return sum + (calls+gradient)*plain, err
}

func isLoRA(step string) bool { return step == "mse-lora" || step == "adv-lora" }

func f32(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// inputs are the denoiser's.
func inputs(p Preset, batch int) []shapes.Shape {
	return family.Inputs(p.UNet, batch, p.Side, p.Side, p.Tokens)
}
