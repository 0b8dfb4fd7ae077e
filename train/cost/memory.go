package cost

import (
	"fmt"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/methods"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Device is what a plan needs to know of the device.
type Device struct {
	Split bool // updates apart from gradients at granularity network, as on CPUs: engine.Engine.Split
	Flash bool // attention without its scores in memory, as CUDA has it for bf16

	Devices int // of this kind that train together, each on its part of a micro-batch; 0 = one
}

// Memory is what a phase takes of the device's memory, in bytes.
type Memory struct {
	Weights   int64 `json:"weights"`   // of teacher, student and discriminator
	Optimizer int64 `json:"optimizer"` // moments and averages
	Step      int64 `json:"step"`      // what an update adds at its peak: samples, block inputs, gradients, scratch space
	Total     int64 `json:"total"`
	Arrays    int64 `json:"arrays"` // of Total, without the compiled programs' scratch space, which is estimated

	Host int64 `json:"host"` // of the host's memory, page-locked, beside the device's: offloaded state
}

// MemoryCounts says how Memory is made and what it leaves out.
const MemoryCounts = "one update walked through with arrays that have no content; the programs' scratch space is estimated from their graphs, which is rough at granularity network; " +
	"not counted: the programs' code, text encoders and VAE, which take their turns before and after training, fragmentation; of the host's memory only offloaded state is counted"

// alike names what a phase's memory depends on, besides the recipe's settings for all phases.
func alike(c *configs.Recipe, s distill.Step) string {
	p := c.Stages[s.Stage].Phases[s.Phase]
	return fmt.Sprint(s.Kind, s.Target, s.Form, s.Teacher.Full == distill.Base, s.Teacher.LoRA != "", s.Guidance > 1,
		s.TeacherSteps > s.StudentSteps, p.Beta1 > 0, p.WeightDecay > 0, p.DiscriminatorWeightDecay > 0)
}

// dry is an engine with a recipe's settings that runs nothing, and the recipe's networks on it.
func dry(b compute.Backend, c *configs.Recipe, m Model, d Device) *method.Networks {
	e := method.Set(engine.Dry(b, dtypes.Float32, nn.Network), c.Train, d.Split)
	e.Flash = d.Flash
	e.Rehearse(d.Devices)
	one := m.inputs(c, 1)
	return &method.Networks{Engine: e, Recipe: c, Denoiser: m.Denoiser, EncodesEmpty: m.EncodesEmpty, Factor: m.Factor, Trace: func(block nn.Block, lora *nn.LoRA, kinds ...string) ([]nn.Spec, error) {
		return trace(b, block, lora, one, kinds...)
	}}
}

// memory rehearses an update of a phase. A phase whose weights and optimizers alone take more than a limit, if it is not
// 0, is not walked through: that they do is then all that Total tells.
func memory(b compute.Backend, c *configs.Recipe, m Model, step distill.Step, d Device, limit int64) (out Memory, err error) {
	how, err := methods.Of(step.Kind)
	if err != nil {
		return out, err
	}
	n := dry(b, c, m, d)
	s, err := method.New(n, how, m.Schedule, step, m.inputs(c, 1))
	if err != nil {
		return out, err
	}
	s.On(0, max(d.Devices, 1))
	if err := s.Load(); err != nil {
		return out, err
	}
	out.Weights = n.Engine.Memory().Live
	if err := s.Optimize(); err != nil {
		return out, err
	}
	out.Optimizer, out.Host = n.Engine.Memory().Live-out.Weights, n.Engine.Memory().Host
	if out.Total = n.Engine.Memory().Live; limit > 0 && out.Total > limit {
		return out, nil
	}
	s.Source = &method.Made{Session: s}
	if err := s.Update(); err != nil {
		return out, err
	}
	out.Total, out.Arrays, out.Host = n.Engine.Memory().Peak, n.Engine.Memory().Held, n.Engine.Memory().HostPeak
	out.Step = out.Total - out.Weights - out.Optimizer
	return out, nil
}

// Drawing is the device memory that a run's sample sheets take between phases: the base, a phase's model beside it, and a
// guided step of eval.batch pictures. 0 where the recipe wants no sheets.
func Drawing(b compute.Backend, c *configs.Recipe, m Model, d Device) (int64, error) {
	if c.Eval.SheetSamples == 0 && len(c.Eval.SheetPrompts) == 0 {
		return 0, nil
	}
	d.Devices = 1
	n := dry(b, c, m, d)
	e := n.Engine
	if _, _, err := n.Frozen(distill.Model{Full: distill.Base}); err != nil {
		return 0, err
	}
	model, _, err := n.Frozen(distill.Model{Full: distill.FullOf("any")})
	if err != nil {
		return 0, err
	}
	var in []*engine.Array
	for _, s := range m.inputs(c, c.Eval.Batch) {
		in = append(in, e.Blank(s))
	}
	column := func() *engine.Array { return e.Blank(in[1].Shape()) }
	var guidance *program.Guidance
	if c.Eval.Guidance > 1 {
		guidance = &program.Guidance{Scale: column()}
		if m.EncodesEmpty {
			for i, t := range m.Denoiser.Conditions(m.Tokens) {
				if t.Caption {
					guidance.Empty = append(guidance.Empty, e.Blank(in[family.Given+i].Shape()))
				}
			}
		}
	}
	_, err = (&program.Functions{Denoiser: m.Denoiser}).Move(e, model, in, column(), column(), guidance)
	return e.Memory().Peak, err
}
