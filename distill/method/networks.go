package method

import (
	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/shapes"
)

// Weights gives what networks hold when a phase begins. A device whose arrays have no content asks for none.
type Weights interface {
	Frozen(m distill.Model) (*Values, error)       // every tensor of a model, its LoRA merged into it
	Adapters(a distill.Artifact) (*Values, error)  // a LoRA's tensors
	Student(step distill.Step) (*Values, error)    // what the phase trains of its student
	Empty() family.Conditions                      // what the empty prompt makes of the conditions that follow from captions, where it is encoded
	Discriminator(s distill.Step) (*Values, error) // of its discriminator: all, or what is its own over the base
}

// Values are a network's tensors, given one by one.
type Values struct {
	Value func(nn.Spec) ([]float32, error)
	Close func() error
}

// Networks are a recipe's networks on a device. The original base is kept there once it was asked for, and shared.
type Networks struct {
	Engine   *engine.Engine
	Recipe   *configs.Recipe
	Denoiser family.Denoiser
	Weights  Weights // may be nil where arrays have no content

	EncodesEmpty bool // the empty prompt is encoded, not zeros
	Factor       int  // side of an image / side of its latents; 0 = unknown, where all images are of one shape

	Trace func(block nn.Block, lora *nn.LoRA, kinds ...string) ([]nn.Spec, error)

	full, lora []nn.Spec // parameters of the denoiser, without adapters and with them
	base       *engine.Params
}

// On are the same networks on another device.
func (n *Networks) On(e *engine.Engine) *Networks {
	return &Networks{Engine: e, Recipe: n.Recipe, Denoiser: n.Denoiser, Weights: n.Weights, EncodesEmpty: n.EncodesEmpty, Factor: n.Factor, Trace: n.Trace, full: n.full, lora: n.lora}
}

// Tracer lists networks' parameters by building them for one sample's inputs.
func Tracer(e *engine.Engine, one []shapes.Shape) func(nn.Block, *nn.LoRA, ...string) ([]nn.Spec, error) {
	return func(block nn.Block, _ *nn.LoRA, _ ...string) ([]nn.Spec, error) {
		return nn.Trace(e.Backend, block, one...)
	}
}

// Adapters is the recipe's LoRA setting.
func (n *Networks) Adapters() *nn.LoRA {
	c := n.Recipe.LoRA
	return &nn.LoRA{Rank: c.Rank, Scale: c.Scale()}
}

// Specs are the denoiser's parameters, without adapters and with them.
func (n *Networks) Specs() (full, lora []nn.Spec, err error) {
	if n.full == nil {
		if n.full, err = n.Trace(n.Denoiser.Network("", nil), nil); err == nil {
			n.lora, err = n.Trace(n.Denoiser.Network("", n.Adapters()), n.Adapters())
		}
	}
	return n.full, n.lora, err
}

// Free gives the base's place on the device back.
func (n *Networks) Free() {
	if n.base != nil {
		n.base.FreeAll()
		n.base = nil
	}
}

// load puts tensors on the device; open is not called where they have no content.
func (n *Networks) load(specs []nn.Spec, trained func(string) bool, open func() (*Values, error)) (*engine.Params, error) {
	if n.Engine.Hollow() {
		return n.Engine.BlankParams(specs, trained), nil
	}
	v, err := open()
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return n.Engine.LoadFunc(specs, v.Value, trained)
}

// Frozen puts a model on the device for calls only. The base is the shared one.
func (n *Networks) Frozen(m distill.Model) (params *engine.Params, free func(), err error) {
	full, _, err := n.Specs()
	if err != nil {
		return nil, nil, err
	}
	open := func() (*Values, error) { return n.Weights.Frozen(m) }
	if m.Full == distill.Base && m.LoRA == "" {
		if n.base == nil {
			if n.base, err = n.load(full, nil, open); err != nil {
				return nil, nil, err
			}
		}
		return n.base, func() {}, nil
	}
	if params, err = n.load(full, nil, open); err != nil {
		return nil, nil, err
	}
	return params, params.FreeAll, nil
}

// besideBase says whether a model's adapters stay beside the shared base's weights rather than being merged into a copy
// of them: where blocks are walked one by one networks are large, and memory is worth more than the adapters' products.
func (n *Networks) besideBase(m distill.Model) bool {
	return m.Full == distill.Base && m.LoRA != "" && n.Engine.Granularity < nn.Network
}

// teacher puts a phase's teacher on the device.
func (n *Networks) teacher(m distill.Model) (params *engine.Params, free func(), err error) {
	if !n.besideBase(m) {
		return n.Frozen(m)
	}
	if params, err = n.overBase(n.lora, engine.IsLoRA, false, func() (*Values, error) { return n.Weights.Adapters(m.LoRA) }); err != nil {
		return nil, nil, err
	}
	return params, func() {
		for _, s := range n.lora {
			if engine.IsLoRA(s.Name) {
				params.Get(s.Name).Free()
			}
		}
	}, nil
}

// overBase is a network over the shared base's weights that has tensors of its own, such as adapters.
func (n *Networks) overBase(specs []nn.Spec, own func(name string) bool, trained bool, open func() (*Values, error)) (*engine.Params, error) {
	base, _, err := n.Frozen(distill.Model{Full: distill.Base})
	if err != nil {
		return nil, err
	}
	var fresh []nn.Spec
	for _, s := range specs {
		if own(s.Name) {
			fresh = append(fresh, s)
		}
	}
	owned, err := n.load(fresh, func(string) bool { return trained }, open)
	if err != nil {
		return nil, err
	}
	p := engine.NewParams(specs)
	for _, s := range specs {
		if own(s.Name) {
			p.Set(s.Name, owned.Get(s.Name), trained)
		} else {
			p.Set(s.Name, base.Get(s.Name), false)
		}
	}
	return p, nil
}

// trainable gives the parameters of a network whose own tensors are trained over the frozen base. Where the engine splits
// its updates, adapted weights are replaced by their effective values, which it then trains through.
func (n *Networks) trainable(specs []nn.Spec, own func(name string) bool, open func() (*Values, error)) (*engine.Params, error) {
	p, err := n.overBase(specs, own, true, open)
	if err == nil && n.Engine.Split {
		err = n.Engine.Materialise(p, *n.Adapters())
	}
	return p, err
}

// student makes the network that a phase trains: adapters over the shared base, or every weight.
func (n *Networks) student(step distill.Step) (*engine.Params, error) {
	open := func() (*Values, error) { return n.Weights.Student(step) }
	if step.Target != configs.TargetLoRA {
		return n.load(n.full, everything, open)
	}
	return n.trainable(n.lora, engine.IsLoRA, open)
}

func everything(string) bool { return true }

// discriminator makes the one of a phase: every weight, or adapters and a head over the base's encoder.
func (n *Networks) discriminator(step distill.Step) (*engine.Params, error) {
	specs, err := n.DiscriminatorSpecs(step)
	if err != nil {
		return nil, err
	}
	d, open := n.Discriminator(), func() (*Values, error) { return n.Weights.Discriminator(step) }
	if d.LoRA == nil {
		return n.load(specs, everything, open)
	}
	return n.trainable(specs, d.Trains, open)
}

// DiscriminatorSpecs are the parameters of a phase's discriminator.
func (n *Networks) DiscriminatorSpecs(step distill.Step) ([]nn.Spec, error) {
	d := n.Discriminator()
	return n.Trace(d.Network("", discriminator.Form(step.Form)), d.LoRA, d.Backbone("").Kind, d.Head("").Kind)
}

// Discriminator is the recipe's.
func (n *Networks) Discriminator() *discriminator.Config {
	c := n.Recipe.Discriminator
	d := &discriminator.Config{Denoiser: n.Denoiser, Channels: c.HeadChannels, Groups: c.HeadGroups, Levels: c.Features == configs.FeaturesLevels}
	if n.Recipe.Data.Buckets.List != configs.BucketsNone && n.Factor > 0 {
		d.Side = n.Recipe.Data.Resolution / n.Factor
	}
	if c.Target == configs.TargetLoRA {
		d.LoRA = n.Adapters()
	}
	return d
}

// usesBase says whether a phase's networks have weights of the shared base.
func (n *Networks) usesBase(step distill.Step) bool {
	return step.Target == configs.TargetLoRA || step.Teacher.Full == distill.Base ||
		step.Method().Critic && n.Recipe.Discriminator.Target == configs.TargetLoRA
}
