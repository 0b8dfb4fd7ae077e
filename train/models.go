package train

import (
	"fmt"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
)

// Files of a phase's result and checkpoints.
const (
	studentFile       = "student.safetensors"
	discriminatorFile = "discriminator.safetensors"
	studentState      = "student.optimizer.safetensors"
	criticState       = "discriminator.optimizer.safetensors"
)

// models loads a run's artifacts: the base, and what phases made.
type models struct {
	run  *Run
	base engine.Tensors // host copy of the original UNet
	full []nn.Spec      // parameters of the UNet without adapters
	lora []nn.Spec      // with them

	shared *engine.Params // the base on the device, frozen
}

func (m *models) free() {
	if m.shared != nil {
		m.shared.FreeAll()
		m.shared = nil
	}
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
	m.base, err = pipeline.Read(r.Pipeline.Dir, "unet")
	return err
}

// artifact reads what a phase made, verified against its manifest.
func (m *models) artifact(a distill.Artifact) (engine.Tensors, error) {
	if a == distill.Base {
		return m.base, nil
	}
	for _, step := range m.run.Ladder.Steps() {
		if step.Produces != a || !step.Final {
			continue
		}
		return m.result(step, studentFile)
	}
	// Within a stage a later phase goes on from what an earlier one made.
	return nil, fmt.Errorf("no phase of the ladder makes %s", a)
}

// result reads a file of a phase's result.
func (m *models) result(step distill.Step, file string) (engine.Tensors, error) {
	s, err := m.run.Dir.Result(step.StageName, step.PhaseName)
	if err != nil {
		return nil, err
	}
	return readTensors(s.Path(file))
}

// latest reads the newest result of an artifact among the steps before index at.
func (m *models) latest(a distill.Artifact, at int) (engine.Tensors, error) {
	steps := m.run.Ladder.Steps()
	for i := at - 1; i >= 0; i-- {
		if steps[i].Produces == a {
			return m.result(steps[i], studentFile)
		}
	}
	return m.artifact(a)
}

// weights is a model as full tensors: a LoRA is merged onto its base.
func (m *models) weights(model distill.Model, at int) (engine.Tensors, error) {
	if err := m.load(); err != nil {
		return nil, err
	}
	full := m.base
	var err error
	if model.Full != distill.Base {
		if full, err = m.latest(model.Full, at); err != nil {
			return nil, err
		}
	}
	if model.LoRA == "" {
		return full, nil
	}
	adapters, err := m.latest(model.LoRA, at)
	if err != nil {
		return nil, err
	}
	return m.merge(full, adapters)
}

// merge adds the adapters' product to the weights: W + scale · up∘down.
func (m *models) merge(full, adapters engine.Tensors) (engine.Tensors, error) {
	out := engine.Tensors{}
	for _, s := range m.full {
		v := append([]float32{}, full[s.Name]...)
		if down, ok := adapters[s.Name+".lora_down"]; ok {
			a := m.adapters()
			dd, ud := nn.LoRADims(s.Dims, a.Rank)
			module := lora.Module{Path: s.Name, Down: lora.Matrix{Shape: dd, Data: down},
				Up: lora.Matrix{Shape: ud, Data: adapters[s.Name+".lora_up"]}, Alpha: m.run.Config.LoRA.Alpha, Rank: a.Rank}
			if err := lora.Merge(v, s.Dims, module); err != nil {
				return nil, fmt.Errorf("merging the adapter of %s: %w", s.Name, err)
			}
		}
		out[s.Name] = v
	}
	return out, nil
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
	values, err := m.latest(model.LoRA, at)
	if err != nil {
		return nil, nil, err
	}
	if params, err = m.adapted(values, false, at); err != nil {
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

// adapted is a set of adapters over the shared base.
func (m *models) adapted(values engine.Tensors, trained bool, at int) (*engine.Params, error) {
	base, _, err := m.frozen(distill.Model{Full: distill.Base}, at)
	if err != nil {
		return nil, err
	}
	p := engine.NewParams(m.lora)
	for _, s := range m.lora {
		if !engine.IsLoRA(s.Name) {
			p.Set(s.Name, base.Get(s.Name), false)
			continue
		}
		v, ok := values[s.Name]
		if !ok || len(v) != s.Size() {
			return nil, fmt.Errorf("adapter %s is missing or has the wrong size; was lora.rank changed?", s.Name)
		}
		a, err := m.run.Engine.Upload(v, s.Dims...)
		if err != nil {
			return nil, err
		}
		p.Set(s.Name, a, trained)
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
			if m.shared, err = m.run.Engine.Load(m.full, m.base, nil); err != nil {
				return nil, nil, err
			}
		}
		return m.shared, func() {}, nil
	}
	w, err := m.weights(model, at)
	if err != nil {
		return nil, nil, err
	}
	if params, err = m.run.Engine.Load(m.full, w, nil); err != nil {
		return nil, nil, err
	}
	return params, params.FreeAll, nil
}

// Model puts the model of a finished step on the device, for sampling.
func (r *Run) Model(step distill.Step) (*engine.Params, func(), error) {
	model := distill.Model{Full: step.Produces}
	if step.Target == distill.TargetLoRA {
		model = distill.Model{Full: distill.Base, LoRA: step.Produces}
	}
	return r.models.frozen(model, len(r.Ladder.Steps()))
}

// Base puts the original model on the device.
func (r *Run) Base() (*engine.Params, func(), error) {
	return r.models.frozen(distill.Model{Full: distill.Base}, 0)
}

// student makes the parameters that a phase trains: adapters over the shared base, or every weight.
func (m *models) student(step distill.Step, at int) (*engine.Params, error) {
	e := m.run.Engine
	if step.Target != distill.TargetLoRA {
		w, err := m.weights(step.Start, at)
		if err != nil {
			return nil, err
		}
		return e.Load(m.full, w, func(string) bool { return true })
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	values := m.run.fresh(m.lora, step.StageName)
	if !step.FreshLoRA {
		var err error
		if values, err = m.latest(step.Start.LoRA, at); err != nil {
			return nil, err
		}
	}
	p, err := m.adapted(values, true, at)
	if err != nil {
		return nil, err
	}
	if e.Split {
		return p, e.Materialise(p, *m.adapters())
	}
	return p, nil
}

// critic makes the discriminator's parameters: the original encoder and a new head, or what the phase before trained.
func (m *models) critic(step distill.Step, at int) (*engine.Params, error) {
	if err := m.load(); err != nil {
		return nil, err
	}
	r := m.run
	specs, err := nn.Trace(r.opt.Backend, r.discriminator().Network("", discriminator.Form(step.Form)), r.Pipeline.UNetInputs(1, pipeline.Square(r.Config.Data.Resolution))...)
	if err != nil {
		return nil, err
	}
	values := r.fresh(specs, step.StageName+"/"+step.PhaseName)
	var before engine.Tensors
	if step.DiscriminatorBackbone == distill.Carried || step.DiscriminatorHead == distill.Carried {
		if before, err = m.result(r.Ladder.Steps()[m.lastCritic(at)], discriminatorFile); err != nil {
			return nil, err
		}
	}
	for _, s := range specs {
		from, origin := m.base, step.DiscriminatorBackbone
		if discriminator.IsHead(s.Name) {
			from, origin = nil, step.DiscriminatorHead
		}
		if origin == distill.Carried {
			from = before
		}
		if v, ok := from[s.Name]; ok {
			values[s.Name] = v
		} else if from != nil {
			return nil, fmt.Errorf("discriminator tensor %s is missing where it should come from", s.Name)
		}
	}
	return r.Engine.Load(specs, values, func(string) bool { return true })
}

// lastCritic is the newest step before at that trained a discriminator.
func (m *models) lastCritic(at int) int {
	steps := m.run.Ladder.Steps()
	for i := at - 1; i > 0; i-- {
		if steps[i].Kind == distill.KindAdversarial {
			return i
		}
	}
	return 0
}

func (r *Run) discriminator() *discriminator.Config {
	c := r.Config.Discriminator
	return &discriminator.Config{UNet: r.Pipeline.UNet, Channels: c.HeadChannels, Groups: c.HeadGroups}
}

// fresh draws initial values that depend on the seed, the name and where they are used.
func (r *Run) fresh(specs []nn.Spec, where string) engine.Tensors {
	number := func(name string) int64 { return hash(where + "/" + name) }
	return engine.Fresh(specs,
		func(name string, v []float32) {
			for i := range v {
				v[i] = float32(distill.Uniform(r.Config.Seed, distill.Init, number(name), uint32(i)))
			}
		},
		func(name string, v []float32) { distill.Normal(v, r.Config.Seed, distill.Init, number(name)) })
}

func hash(s string) int64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return int64(h >> 1)
}

func readTensors(path string) (engine.Tensors, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := engine.Tensors{}
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		if out[name], err = t.Float32(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
