package cost

import (
	"fmt"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
)

// Model is what a plan needs to know of the base model.
type Model struct {
	Denoiser family.Denoiser
	Schedule *distill.Schedule
	Factor   int // image side / latent side
	Tokens   int // of a prompt

	EncodesEmpty bool // the empty prompt is encoded, not zeros
}

// Of is the model of a pipeline.
func Of(p *pipeline.Pipeline) Model {
	return Model{Denoiser: p.UNet, Schedule: p.Schedule, Factor: p.Factor(), Tokens: p.Tokens(), EncodesEmpty: !p.ZeroEmpty}
}

// Phase is the estimate for one phase of a ladder.
type Phase struct {
	Stage          string  `json:"stage"`
	Phase          string  `json:"phase"`
	Kind           string  `json:"kind"`
	Target         string  `json:"target"`
	Form           string  `json:"form,omitempty"`
	Teacher        string  `json:"teacher,omitempty"`
	TeacherSteps   int     `json:"teacher_steps,omitempty"`
	Guidance       float64 `json:"guidance,omitempty"`
	Start          string  `json:"start"`
	Produces       string  `json:"produces"`
	Trained        int64   `json:"trained_parameters"`                 // of the student
	Discriminator  int64   `json:"discriminator_parameters,omitempty"` // trained
	Samples        int64   `json:"samples"`
	Updates        int64   `json:"updates"`
	TeacherCalls   int     `json:"teacher_calls"` // network calls per sample, guidance counted twice
	FLOPsPerSample float64 `json:"flops_per_sample"`
	FLOPs          float64 `json:"flops"`
	Model          float64 `json:"model_flops_per_sample"` // as ModelCount says
	Bound          float64 `json:"bound_share"`            // most of an update's operations that a stop waits for
	Seconds        float64 `json:"seconds,omitempty"`      // at the speed that a plan was asked for
	Checkpoint     int64   `json:"checkpoint_bytes"`       // resumable state on disk
	Result         int64   `json:"result_bytes"`           // the student, kept for ever
	Memory         Memory  `json:"memory"`
}

// FLOPsCount says how FLOPsPerSample is made.
const FLOPsCount = "two for each multiply-add of matrix products and convolutions, backward twice the forward (once where only inputs need gradients), " +
	"one more forward where blocks are computed again (granularity stage and layer); every update counted as one that moves the student"

// networks of a recipe, measured.
type networks struct {
	plain, adapted, backbone    Network
	critic                      Network // the backbone as it is trained: with adapters, or the plain one
	headConditional, headSingle Network
	penalised                   bool // the discriminator sees real samples a second time, for R1
}

// Plan estimates every phase of a recipe's ladder. The backend only builds graphs; nothing is computed on it.
func Plan(b compute.Backend, c *configs.Recipe, m Model, d Device) ([]Phase, error) {
	steps, err := distill.Plan(c, distill.Epsilon) // the cost is the same, whatever the base predicts
	if err != nil {
		return nil, err
	}
	n, err := measure(b, c, m)
	if err != nil {
		return nil, err
	}
	var out []Phase
	known := map[string]Memory{}
	for _, s := range steps {
		p, err := n.phase(c, m, s)
		if err != nil {
			return nil, err
		}
		if s.Trains() {
			alike := alike(c, s)
			if _, ok := known[alike]; !ok {
				if known[alike], err = memory(b, c, m, s, d, 0); err != nil {
					return nil, fmt.Errorf("stage %s, phase %s: %w", s.StageName, s.PhaseName, err)
				}
			}
			p.Memory = known[alike]
		}
		out = append(out, p)
	}
	return out, nil
}

// inputs are the denoiser's.
func (m Model) inputs(c *configs.Recipe, batch int) []shapes.Shape {
	largest := c.Data.Largest()
	return family.Inputs(m.Denoiser, batch, largest.Height/m.Factor, largest.Width/m.Factor, m.Tokens)
}

// Encoded is what an encoded image and an encoded caption of the data set take of the run directory, in bytes.
func (m Model) Encoded(c *configs.Recipe) (image, caption int64) {
	for _, t := range m.Denoiser.Conditions(m.Tokens) {
		if t.Caption {
			caption += 4 * int64(t.Size())
		}
	}
	return 4 * int64(m.inputs(c, 1)[family.Sample].Size()), caption
}

func measure(b compute.Backend, c *configs.Recipe, m Model) (n networks, err error) {
	side := c.Data.Resolution / m.Factor
	if side < 1<<(m.Denoiser.Levels()-1) {
		return n, fmt.Errorf("data.resolution %d is too small: the UNet would see %d×%d latents", c.Data.Resolution, side, side)
	}
	in := m.inputs(c, 1)
	d := (&method.Networks{Recipe: c, Denoiser: m.Denoiser, Factor: m.Factor}).Discriminator()
	n.penalised = c.Discriminator.R1 > 0
	compute := method.ComputeTypes[c.Train.Compute]
	last := m.Denoiser.Levels() - 1
	for _, one := range []struct {
		into  *Network
		block nn.Block
		in    []shapes.Shape
	}{
		{&n.plain, m.Denoiser.Network("", nil), in},
		{&n.adapted, m.Denoiser.Network("", &nn.LoRA{Rank: c.LoRA.Rank, Scale: c.LoRA.Scale()}), in},
		{&n.backbone, m.Denoiser.Encoder(""), in},
		{&n.critic, d.Backbone(""), in},
	} {
		if *one.into, err = Measure(b, one.block, compute, one.in...); err != nil {
			return n, err
		}
	}
	for i, head := range d.Heads("") {
		level := last // the mid block's features come first
		if i > 0 {
			level = i - 1
		}
		for into, views := range map[*Network]int{&n.headSingle: 1, &n.headConditional: 2} {
			by := min(level+1, last)
			measured, err := Measure(b, head, compute, shapes.Make(compute, 1, in[family.Sample].Dim(1)>>by, in[family.Sample].Dim(2)>>by, views*m.Denoiser.Widths()[level]))
			if err != nil {
				return n, err
			}
			into.FLOPs += measured.FLOPs
			into.Parameters += measured.Parameters
		}
	}
	return n, nil
}

func (n *networks) phase(c *configs.Recipe, m Model, s distill.Step) (Phase, error) {
	phase := c.Stages[s.Stage].Phases[s.Phase]
	p := Phase{Stage: s.StageName, Phase: s.PhaseName, Kind: s.Kind, Target: s.Target, Form: s.Form, Start: s.Start.String(),
		Produces: string(s.Produces), Samples: s.Samples, Updates: s.Samples / int64(c.Train.GlobalBatch())}
	size := n.plain.Parameters
	if !s.Trains() {
		p.Result = 4 * size
		return p, nil
	}
	sampler, err := distill.NewSampler(m.Schedule, c, s)
	if err != nil {
		return p, err
	}
	p.Teacher, p.TeacherSteps, p.Guidance = s.Teacher.String(), s.TeacherSteps, s.Guidance
	p.TeacherCalls = sampler.Calls()
	if s.Guidance > 0 {
		p.TeacherCalls *= 2
	}
	p.TeacherCalls += s.Method().Calls
	student, head := n.plain, n.headSingle
	p.Trained = size
	if s.Target == configs.TargetLoRA {
		student, p.Trained = n.adapted, n.adapted.Adapters
	}
	if s.Form == configs.FormConditional {
		head = n.headConditional
	}
	if s.Method().Critic {
		p.Discriminator = n.backbone.Parameters + head.Parameters
		if c.Discriminator.Target == configs.TargetLoRA {
			p.Discriminator = n.critic.Adapters + head.Parameters
		}
	}
	again := 1.0
	if c.Train.Granularity == "network" {
		again = 0
	}
	p.FLOPsPerSample = n.operations(s, p.TeacherCalls, passes{student, n.critic, head, 3 + again, 3 + again, 3 + again, 2 + again})
	p.FLOPs = p.FLOPsPerSample * float64(s.Samples)
	model := passes{n.plain, n.backbone, head, 3, 3, 3, 2}
	if s.Target == configs.TargetLoRA {
		model.student--
	}
	if n.critic.Adapters > 0 {
		model.critic--
	}
	p.Model = n.operations(s, p.TeacherCalls, model)
	own := n.afterCritic(s, model) / p.Model
	p.Bound = own + (1-own)/float64(c.Train.Accumulate)

	moments := int64(method.ComputeTypes[c.Train.Moments].Size())
	if phase.Beta1 > 0 {
		moments *= 2
	}
	p.Result = 4 * p.Trained
	p.Checkpoint = (p.Trained + p.Discriminator) * (4 + moments)
	return p, nil
}

// ModelCount says what ModelFLOPs counts.
const ModelCount = "model operations: two for each multiply-add of matrix products and convolutions; gradients by inputs once, " +
	"by trained weights once more; adapters, and what is computed again for want of memory, are not counted"

// ModelFLOPs are the operations per sample of each phase of a recipe, by "stage/phase", whatever the granularity.
func ModelFLOPs(b compute.Backend, c *configs.Recipe, m Model) (map[string]float64, error) {
	steps, err := distill.Plan(c, distill.Epsilon) // the cost is the same, whatever the base predicts
	if err != nil {
		return nil, err
	}
	n, err := measure(b, c, m)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, s := range steps {
		if !s.Trains() {
			continue
		}
		p, err := n.phase(c, m, s)
		if err != nil {
			return nil, err
		}
		out[s.StageName+"/"+s.PhaseName] = p.Model
	}
	return out, nil
}

// passes are networks as an update counts them, and how many forward passes' operations it is to train each, and to go
// through the discriminator with a gradient by its input alone.
type passes struct {
	ofStudent, ofCritic, ofHead    Network
	student, critic, head, through float64
}

// operations of one sample: calls without gradients, the student's training and, with a discriminator, the sample for it,
// its training on real and fake (and their start), and the way back through it.
func (n *networks) operations(s distill.Step, calls int, p passes) float64 {
	sum := float64(calls)*n.plain.FLOPs + p.student*p.ofStudent.FLOPs
	if !s.Method().Critic {
		return sum
	}
	views, start, judged := 2.0, 0.0, 2.0
	if s.Form == configs.FormConditional {
		views, start = 3, 1
	}
	if n.penalised {
		views, judged = views+1, 3
	}
	sum += p.ofStudent.FLOPs + p.critic*views*p.ofCritic.FLOPs + p.head*judged*p.ofHead.FLOPs
	return sum + p.through*(p.ofCritic.FLOPs+p.ofHead.FLOPs) + start*p.ofCritic.FLOPs
}

// afterCritic are those operations that follow the discriminator's update, between which and the student's own an update cannot be
// left; none where there is no discriminator. Before them it is left between micro-batches.
func (n *networks) afterCritic(s distill.Step, p passes) float64 {
	if !s.Method().Critic {
		return 0
	}
	start := 0.0
	if s.Form == configs.FormConditional {
		start = 1
	}
	return p.student*p.ofStudent.FLOPs + p.through*(p.ofCritic.FLOPs+p.ofHead.FLOPs) + start*p.ofCritic.FLOPs
}
