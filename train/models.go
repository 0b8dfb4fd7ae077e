package train

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
)

// Files of a phase's result and checkpoints: the networks that it trains, by role, and the state of their optimizers.
func weightsFile(r method.Role) string { return string(r) + ".safetensors" }
func stateFile(r method.Role) string   { return string(r) + ".optimizer.safetensors" }

var studentFile = weightsFile(method.Student)

// models are the networks that a run begins with and makes, in their files.
type models struct {
	*Setup
	opening  sync.Mutex        // several devices ask for the base at once
	original weights.Source    // the base's UNet, once it is open
	empty    family.Conditions // what the empty prompt makes of the conditions that follow from captions, where it is encoded
}

// base opens the original UNet's file, which stays open until the run is closed.
func (m *models) base() (weights.Source, error) {
	m.opening.Lock()
	defer m.opening.Unlock()
	var err error
	if m.original == nil {
		m.original, err = pipeline.OpenWeights(m.Pipeline.Dir, "unet")
	}
	return opened{m.original, func() error { return nil }}, err
}

func (m *models) close() error {
	if m.original == nil {
		return nil
	}
	return m.original.Close()
}

// networks are the recipe's networks on a device of the run.
func (m *models) networks(e *engine.Engine) *method.Networks {
	return &method.Networks{Engine: e, Recipe: m.Config, Denoiser: m.Pipeline.UNet, EncodesEmpty: !m.Pipeline.ZeroEmpty, Factor: m.Pipeline.Factor(), Weights: m.before(len(m.Ladder.Steps())),
		Trace: method.Tracer(e, m.inputs(1))}
}

// files are the weights with which the phase at an index of the ladder begins: the base's, and what the phases before it made;
// or those of a checkpoint of it. Weights go from their files to the device and back tensor by tensor; the host never holds
// a network.
type files struct {
	*models
	at         int
	checkpoint *rundir.Checkpoint // nil = the phase begins
}

// before are the files of the phase at an index; of no phase, what the whole ladder made.
func (m *models) before(at int) *files { return &files{models: m, at: at} }

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

// resultFile opens a file of a phase's result, verified against its manifest.
func (m *models) resultFile(step distill.Step, file string) (weights.Source, error) {
	var s *rundir.Snapshot
	err := m.visible(func() (err error) {
		s, err = m.Dir.Result(step.StageName, step.PhaseName)
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
		return f.base()
	}
	steps := f.Ladder.Steps()
	for i := f.at - 1; i >= 0; i-- {
		if steps[i].Produces == a {
			return f.resultFile(steps[i], studentFile)
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
	trained, err := lora.OpenTrained(adapters, f.Config.LoRA.Alpha)
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

func (f *files) Empty() family.Conditions { return f.empty }

func (f *files) Student(step distill.Step) (*method.Values, error) {
	switch {
	case f.checkpoint != nil:
		return values(openSaved(f.checkpoint, studentFile))
	case step.Target != configs.TargetLoRA:
		return values(f.merged(step.Start))
	case step.FreshLoRA:
		return &method.Values{Value: f.fresh(step.StageName), Close: func() error { return nil }}, nil
	}
	return values(f.latest(step.Start.LoRA))
}

// Discriminator is the original encoder, or fresh adapters over it, and a new head, or what the phase before trained.
func (f *files) Discriminator(step distill.Step) (*method.Values, error) {
	file := weightsFile(method.Discriminator)
	if f.checkpoint != nil {
		return values(openSaved(f.checkpoint, file))
	}
	head := f.fresh(step.StageName + "/" + step.PhaseName)
	backbone, close := head, func() error { return nil }
	if f.Config.Discriminator.Target != configs.TargetLoRA {
		base, err := f.base()
		if err != nil {
			return nil, err
		}
		backbone = pipeline.Reader(base)
	}
	if step.DiscriminatorBackbone == distill.Carried || step.DiscriminatorHead == distill.Carried {
		before, err := f.resultFile(f.lastCritic(f.at), file)
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
func (m *models) lastCritic(at int) distill.Step {
	steps := m.Ladder.Steps()
	for i := at - 1; i > 0; i-- {
		if steps[i].Method().Critic {
			return steps[i]
		}
	}
	return steps[0]
}

// fresh gives initial values that depend on the seed, the name and where they are used.
func (m *models) fresh(where string) func(nn.Spec) ([]float32, error) {
	number := func(name string) int64 { return distill.NumberOf(where + "/" + name) }
	uniform := func(name string, v []float32) {
		for i := range v {
			v[i] = float32(distill.Uniform(m.Config.Seed, distill.Init, number(name), uint32(i)))
		}
	}
	normal := func(name string, v []float32) { distill.Normal(v, m.Config.Seed, distill.Init, number(name)) }
	return func(s nn.Spec) ([]float32, error) {
		return engine.Fresh([]nn.Spec{s}, uniform, normal)[s.Name], nil
	}
}

// merge saves a stage's full model, made of the original base and the LoRA, as the result of the phase at an index of the ladder.
func (m *models) merge(ctx context.Context, step distill.Step, at int, full []nn.Spec) error {
	w, err := m.before(at).merged(step.Start)
	if err != nil || !m.leads() {
		return err
	}
	defer w.Close()
	return m.Dir.SaveResult(pointOf(step, 0), nil, tensorFile(studentFile, full, until(ctx, pipeline.Reader(w)), finite(studentFile, step, 0)))
}

// until gives tensors until a context ends.
func until(ctx context.Context, value func(nn.Spec) ([]float32, error)) func(nn.Spec) ([]float32, error) {
	return func(s nn.Spec) ([]float32, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return value(s)
	}
}
