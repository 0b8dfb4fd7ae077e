package train

import (
	"errors"
	"fmt"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// Files of a phase's result and checkpoints.
const (
	studentFile       = "student.safetensors"
	discriminatorFile = "discriminator.safetensors"
	studentState      = "student.optimizer.safetensors"
	criticState       = "discriminator.optimizer.safetensors"
)

// models gives a run's networks: the base, and what phases made. Weights go from their files to the device and back
// tensor by tensor; the host never holds a network.
type models struct {
	run  *Run
	base weights.Source // the original UNet's file, open
	full []nn.Spec      // parameters of the UNet without adapters
	lora []nn.Spec      // with them

	shared *engine.Params // the base on the device, frozen
}

// free gives the base's place on the device back.
func (m *models) free() {
	if m.shared != nil {
		m.shared.FreeAll()
		m.shared = nil
	}
}

func (m *models) close() error {
	m.free()
	if m.base == nil {
		return nil
	}
	return m.base.Close()
}

// adapters is the recipe's LoRA setting.
func (m *models) adapters() *nn.LoRA {
	c := m.run.Config.LoRA
	return &nn.LoRA{Rank: c.Rank, Scale: c.Scale()}
}

func (m *models) load() error {
	if m.base != nil {
		return nil
	}
	r := m.run
	var err error
	if m.full, err = r.Pipeline.UNetSpecs(r.opt.Backend, nil); err != nil {
		return err
	}
	if m.lora, err = r.Pipeline.UNetSpecs(r.opt.Backend, m.adapters()); err != nil {
		return err
	}
	m.base, err = pipeline.OpenWeights(r.Pipeline.Dir, "unet")
	return err
}

// opened is tensors under diffusers' names, to be closed; the base's file stays open.
type opened struct {
	weights.Source
	close func() error
}

func (o opened) Close() error { return o.close() }

func (m *models) original() weights.Source {
	return opened{m.base, func() error { return nil }}
}

// result opens a file of a phase's result, verified against its manifest.
func (m *models) result(step distill.Step, file string) (weights.Source, error) {
	var s *rundir.Snapshot
	err := m.run.visible(func() (err error) {
		s, err = m.run.Dir.Result(step.StageName, step.PhaseName)
		return err
	})
	if err != nil {
		return nil, err
	}
	return weights.Open(s.Path(file))
}

// latest opens the newest result of an artifact among the steps before index at.
func (m *models) latest(a distill.Artifact, at int) (weights.Source, error) {
	if a == distill.Base {
		return m.original(), nil
	}
	steps := m.run.Ladder.Steps()
	for i := at - 1; i >= 0; i-- {
		if steps[i].Produces == a {
			return m.result(steps[i], studentFile)
		}
	}
	return nil, fmt.Errorf("no phase of the ladder before this one makes %s", a)
}

// weights opens a model as full tensors: a LoRA is merged onto its base, W + scale · up∘down in f32, as they are read.
func (m *models) weights(model distill.Model, at int) (weights.Source, error) {
	if err := m.load(); err != nil {
		return nil, err
	}
	full, err := m.latest(model.Full, at)
	if err != nil || model.LoRA == "" {
		return full, err
	}
	adapters, err := m.latest(model.LoRA, at)
	if err != nil {
		return nil, errors.Join(err, full.Close())
	}
	both := func() error { return errors.Join(full.Close(), adapters.Close()) }
	trained, err := lora.OpenTrained(adapters, m.run.Config.LoRA.Alpha)
	if err != nil {
		return nil, errors.Join(err, both())
	}
	merged, err := trained.Merged(full, weights.F32)
	if err != nil {
		return nil, errors.Join(err, both())
	}
	return opened{merged, both}, nil
}

// besideBase says whether a model's adapters stay beside the shared base's weights rather than being merged into a copy
// of them: where blocks are walked one by one networks are large, and memory is worth more than the adapters' products.
func (m *models) besideBase(model distill.Model) bool {
	return model.Full == distill.Base && model.LoRA != "" && m.run.Engine.Granularity < nn.Network
}

// teacher puts a phase's teacher on the device.
func (m *models) teacher(model distill.Model, at int) (params *engine.Params, free func(), err error) {
	if !m.besideBase(model) {
		return m.frozen(model, at)
	}
	adapters, err := m.latest(model.LoRA, at)
	if err != nil {
		return nil, nil, err
	}
	defer adapters.Close()
	if params, err = m.overBase(m.lora, engine.IsLoRA, pipeline.Reader(adapters), false, at); err != nil {
		return nil, nil, err
	}
	return params, func() {
		for _, s := range m.lora {
			if engine.IsLoRA(s.Name) {
				params.Get(s.Name).Free()
			}
		}
	}, nil
}

// overBase is a network over the shared base's weights: of its own it has the tensors that own names, such as adapters.
func (m *models) overBase(specs []nn.Spec, own func(name string) bool, value func(nn.Spec) ([]float32, error), trained bool, at int) (*engine.Params, error) {
	base, _, err := m.frozen(distill.Model{Full: distill.Base}, at)
	if err != nil {
		return nil, err
	}
	var fresh []nn.Spec
	for _, s := range specs {
		if own(s.Name) {
			fresh = append(fresh, s)
		}
	}
	owned, err := m.run.Engine.LoadFunc(fresh, value, func(string) bool { return trained })
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

// frozen puts a model on the device for calls only. The original base is kept and shared.
func (m *models) frozen(model distill.Model, at int) (params *engine.Params, free func(), err error) {
	if err := m.load(); err != nil {
		return nil, nil, err
	}
	if model.Full == distill.Base && model.LoRA == "" {
		if m.shared == nil {
			if m.shared, err = m.run.Engine.LoadFunc(m.full, pipeline.Reader(m.base), nil); err != nil {
				return nil, nil, err
			}
		}
		return m.shared, func() {}, nil
	}
	src, err := m.weights(model, at)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	if params, err = m.run.Engine.LoadFunc(m.full, pipeline.Reader(src), nil); err != nil {
		return nil, nil, err
	}
	return params, params.FreeAll, nil
}

// Model puts the model of a finished step on the device, for sampling.
func (r *Run) Model(step distill.Step) (*engine.Params, func(), error) {
	model := distill.Model{Full: step.Produces}
	if step.Target == configs.TargetLoRA {
		model = distill.Model{Full: distill.Base, LoRA: step.Produces}
	}
	return r.models.frozen(model, len(r.Ladder.Steps()))
}

// Base puts the original model on the device.
func (r *Run) Base() (*engine.Params, func(), error) {
	return r.models.frozen(distill.Model{Full: distill.Base}, 0)
}

// student makes the parameters that a phase trains: adapters over the shared base, or every weight; with the values of a
// checkpoint of the phase, if it is not nil.
func (m *models) student(step distill.Step, at int, checkpoint *rundir.Checkpoint) (*engine.Params, error) {
	if err := m.load(); err != nil {
		return nil, err
	}
	e := m.run.Engine
	var src weights.Source
	var err error
	switch {
	case checkpoint != nil:
		src, err = openSaved(checkpoint, studentFile)
	case step.Target != configs.TargetLoRA:
		src, err = m.weights(step.Start, at)
	case !step.FreshLoRA:
		src, err = m.latest(step.Start.LoRA, at)
	}
	if err != nil {
		return nil, err
	}
	value := m.run.fresh(step.StageName)
	if src != nil {
		defer src.Close()
		value = pipeline.Reader(src)
	}
	if step.Target != configs.TargetLoRA {
		return e.LoadFunc(m.full, value, everything)
	}
	return m.trainable(m.lora, engine.IsLoRA, value, at)
}

// trainable is overBase for training what is its own; the engine's way of training adapters is prepared.
func (m *models) trainable(specs []nn.Spec, own func(name string) bool, value func(nn.Spec) ([]float32, error), at int) (*engine.Params, error) {
	p, err := m.overBase(specs, own, value, true, at)
	if err == nil && m.run.Engine.Split {
		err = m.run.Engine.Materialise(p, *m.adapters())
	}
	return p, err
}

func everything(string) bool { return true }

// critic makes the discriminator's parameters: the original encoder, or fresh adapters over it, and a new head, or what
// the phase before trained; with the values of a checkpoint of the phase, if it is not nil.
func (m *models) critic(step distill.Step, at int, checkpoint *rundir.Checkpoint) (*engine.Params, error) {
	if err := m.load(); err != nil {
		return nil, err
	}
	r := m.run
	d := r.discriminator()
	specs, err := r.criticSpecs(step)
	if err != nil {
		return nil, err
	}
	head := r.fresh(step.Path())
	backbone := head
	if d.LoRA == nil {
		backbone = pipeline.Reader(m.base)
	}
	if checkpoint != nil || step.DiscriminatorBackbone == distill.Carried || step.DiscriminatorHead == distill.Carried {
		var before weights.Source
		if checkpoint != nil {
			before, err = openSaved(checkpoint, discriminatorFile)
		} else {
			before, err = m.result(m.lastCritic(at), discriminatorFile)
		}
		if err != nil {
			return nil, err
		}
		defer before.Close()
		if checkpoint != nil || step.DiscriminatorBackbone == distill.Carried {
			backbone = pipeline.Reader(before)
		}
		if checkpoint != nil || step.DiscriminatorHead == distill.Carried {
			head = pipeline.Reader(before)
		}
	}
	value := func(s nn.Spec) ([]float32, error) {
		if discriminator.IsHead(s.Name) {
			return head(s)
		}
		return backbone(s)
	}
	if d.LoRA == nil {
		return r.Engine.LoadFunc(specs, value, everything)
	}
	return m.trainable(specs, d.Trains, value, at)
}

// criticSpecs are the parameters of a phase's discriminator.
func (r *Run) criticSpecs(step distill.Step) ([]nn.Spec, error) {
	return nn.Trace(r.opt.Backend, r.discriminator().Network("", discriminator.Form(step.Form)), r.Pipeline.UNetInputs(1, pipeline.Square(r.Config.Data.Resolution))...)
}

// lastCritic is the newest step before at that trained a discriminator.
func (m *models) lastCritic(at int) distill.Step {
	steps := m.run.Ladder.Steps()
	for i := at - 1; i > 0; i-- {
		if steps[i].Kind == configs.KindAdversarial {
			return steps[i]
		}
	}
	return steps[0]
}

// discriminator is the recipe's.
func (r *Run) discriminator() *discriminator.Config {
	c := r.Config.Discriminator
	d := &discriminator.Config{UNet: r.Pipeline.UNet, Channels: c.HeadChannels, Groups: c.HeadGroups, Levels: c.Features == configs.FeaturesLevels}
	if c.Target == configs.TargetLoRA {
		d.LoRA = r.models.adapters()
	}
	return d
}

// critics is the discriminator as programs see it: split training materialises its adapters.
func (r *Run) critics() *discriminator.Config {
	d := r.discriminator()
	if r.Engine.Split {
		d.LoRA = nil
	}
	return d
}

// fresh gives initial values that depend on the seed, the name and where they are used.
func (r *Run) fresh(where string) func(nn.Spec) ([]float32, error) {
	number := func(name string) int64 { return distill.NumberOf(where + "/" + name) }
	uniform := func(name string, v []float32) {
		for i := range v {
			v[i] = float32(distill.Uniform(r.Config.Seed, distill.Init, number(name), uint32(i)))
		}
	}
	normal := func(name string, v []float32) { distill.Normal(v, r.Config.Seed, distill.Init, number(name)) }
	return func(s nn.Spec) ([]float32, error) {
		return engine.Fresh([]nn.Spec{s}, uniform, normal)[s.Name], nil
	}
}
