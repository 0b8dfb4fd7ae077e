package train

import (
	"errors"
	"fmt"
	"slices"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/rundir"

	"github.com/gomlx/compute/shapes"
)

// Files of a phase's result and checkpoints: the networks that it trains, by role, and the state of their optimizers.
func weightsFile(r method.Role) string { return string(r) + ".safetensors" }
func stateFile(r method.Role) string   { return string(r) + ".optimizer.safetensors" }

var studentFile = weightsFile(method.Student)

// files are the weights with which the phase at an index of the ladder begins: the base's, and what the phases before it made;
// or those of a checkpoint of it. Weights go from their files to the device and back tensor by tensor; the host never holds
// a network.
type files struct {
	run        *Run
	at         int
	checkpoint *rundir.Checkpoint // nil = the phase begins
}

// before are the files of the phase at an index; of no phase, what the whole ladder made.
func (r *Run) before(at int) *files { return &files{run: r, at: at} }

// original is the base's file, which stays open until the run is closed.
func (r *Run) original() (weights.Source, error) {
	r.opening.Lock()
	defer r.opening.Unlock()
	var err error
	if r.base == nil {
		r.base, err = pipeline.OpenWeights(r.Pipeline.Dir, "unet")
	}
	return opened{r.base, func() error { return nil }}, err
}

// newNetworks are the recipe's networks on a device of the run.
func (r *Run) newNetworks(e *engine.Engine) *method.Networks {
	return &method.Networks{Engine: e, Recipe: r.Config, UNet: r.Pipeline.UNet, EncodesEmpty: !r.Pipeline.ZeroEmpty, Factor: r.Pipeline.Factor(), Weights: r.before(len(r.Ladder.Steps())),
		Trace: method.Tracer(e, r.oneSample())}
}

// networksOn are the recipe's networks on the device of this process with a number.
func (r *Run) networksOn(device int) *method.Networks {
	if device == 0 {
		return r.networks
	}
	r.opening.Lock()
	defer r.opening.Unlock()
	for len(r.peers) < device {
		r.peers = append(r.peers, r.newNetworks(r.Engines()[len(r.peers)+1]))
	}
	return r.peers[device-1]
}

// oneSample are the shapes of the UNet's inputs for one sample of the largest shape.
func (r *Run) oneSample() []shapes.Shape {
	return r.inputs(1)
}

// opened is tensors under diffusers' names, to be closed.
type opened struct {
	weights.Source
	close func() error
}

func (o opened) Close() error { return o.close() }

// values gives a source's tensors one by one.
func values(src weights.Source, err error) (*method.Values, error) {
	if err != nil {
		return nil, err
	}
	return &method.Values{Value: pipeline.Reader(src), Close: src.Close}, nil
}

// result opens a file of a phase's result, verified against its manifest.
func (r *Run) resultFile(step distill.Step, file string) (weights.Source, error) {
	var s *rundir.Snapshot
	err := r.visible(func() (err error) {
		s, err = r.Dir.Result(step.StageName, step.PhaseName)
		return err
	})
	if err != nil {
		return nil, err
	}
	return weights.Open(s.Path(file))
}

// latest opens the newest result of an artifact among the steps before the phase.
func (f *files) latest(a distill.Artifact) (weights.Source, error) {
	if a == distill.Base {
		return f.run.original()
	}
	steps := f.run.Ladder.Steps()
	for i := f.at - 1; i >= 0; i-- {
		if steps[i].Produces == a {
			return f.run.resultFile(steps[i], studentFile)
		}
	}
	return nil, fmt.Errorf("no phase of the ladder before this one makes %s", a)
}

// merged opens a model as full tensors: a LoRA is merged onto its base, W + scale · up∘down in f32, as they are read.
func (f *files) merged(model distill.Model) (weights.Source, error) {
	full, err := f.latest(model.Full)
	if err != nil || model.LoRA == "" {
		return full, err
	}
	adapters, err := f.latest(model.LoRA)
	if err != nil {
		return nil, errors.Join(err, full.Close())
	}
	both := func() error { return errors.Join(full.Close(), adapters.Close()) }
	trained, err := lora.OpenTrained(adapters, f.run.Config.LoRA.Alpha)
	if err != nil {
		return nil, errors.Join(err, both())
	}
	merged, err := trained.Merged(full, weights.F32)
	if err != nil {
		return nil, errors.Join(err, both())
	}
	return opened{merged, both}, nil
}

// Frozen, Adapters, Empty, Student and Discriminator are method.Weights.
func (f *files) Frozen(m distill.Model) (*method.Values, error) { return values(f.merged(m)) }

func (f *files) Adapters(a distill.Artifact) (*method.Values, error) { return values(f.latest(a)) }

func (f *files) Empty() family.Conditions { return f.run.samples.empty }

func (f *files) Student(step distill.Step) (*method.Values, error) {
	switch {
	case f.checkpoint != nil:
		return values(openSaved(f.checkpoint, studentFile))
	case step.Target != configs.TargetLoRA:
		return values(f.merged(step.Start))
	case step.FreshLoRA:
		return &method.Values{Value: f.run.fresh(step.StageName), Close: func() error { return nil }}, nil
	}
	return values(f.latest(step.Start.LoRA))
}

// Discriminator is the original encoder, or fresh adapters over it, and a new head, or what the phase before trained.
func (f *files) Discriminator(step distill.Step) (*method.Values, error) {
	r, file := f.run, weightsFile(method.Discriminator)
	if f.checkpoint != nil {
		return values(openSaved(f.checkpoint, file))
	}
	head := r.fresh(step.StageName + "/" + step.PhaseName)
	backbone, close := head, func() error { return nil }
	if r.Config.Discriminator.Target != configs.TargetLoRA {
		base, err := r.original()
		if err != nil {
			return nil, err
		}
		backbone = pipeline.Reader(base)
	}
	if step.DiscriminatorBackbone == distill.Carried || step.DiscriminatorHead == distill.Carried {
		before, err := r.resultFile(r.lastCritic(f.at), file)
		if err != nil {
			return nil, err
		}
		close = before.Close
		if step.DiscriminatorBackbone == distill.Carried {
			backbone = pipeline.Reader(before)
		}
		if step.DiscriminatorHead == distill.Carried {
			head = pipeline.Reader(before)
		}
	}
	return &method.Values{Close: close, Value: func(s nn.Spec) ([]float32, error) {
		if discriminator.IsHead(s.Name) {
			return head(s)
		}
		return backbone(s)
	}}, nil
}

// lastCritic is the newest step before at that trained a discriminator.
func (r *Run) lastCritic(at int) distill.Step {
	steps := r.Ladder.Steps()
	for i := at - 1; i > 0; i-- {
		if steps[i].Method().Critic {
			return steps[i]
		}
	}
	return steps[0]
}

// Model puts the model of a finished step on the device of one of Engines, for sampling.
func (r *Run) Model(e *engine.Engine, step distill.Step) (*engine.Params, func(), error) {
	model := distill.Model{Full: step.Produces}
	if step.Target == configs.TargetLoRA {
		model = distill.Model{Full: distill.Base, LoRA: step.Produces}
	}
	return r.frozen(e, model, len(r.Ladder.Steps()))
}

// Base puts the original model on the device of one of Engines.
func (r *Run) Base(e *engine.Engine) (*engine.Params, func(), error) {
	return r.frozen(e, distill.Model{Full: distill.Base}, 0)
}

func (r *Run) frozen(e *engine.Engine, model distill.Model, before int) (*engine.Params, func(), error) {
	n := r.networksOn(slices.Index(r.Engines(), e))
	n.Weights = r.before(before)
	return n.Frozen(model)
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
