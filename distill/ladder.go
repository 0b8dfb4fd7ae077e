package distill

import (
	"fewstep/configs"
	"fmt"
	"math"
	"slices"
)

// Artifact names a model that a ladder makes or starts from: "base", or kind
// and stage such as "lora@8" or "full@8". The empty artifact is none.
type Artifact string

// Base is the original model.
const Base Artifact = "base"

// LoRAOf and FullOf name what a stage makes.
func LoRAOf(stage string) Artifact { return Artifact("lora@" + stage) }
func FullOf(stage string) Artifact { return Artifact("full@" + stage) }

// Model is a network: full weights, with adapters over them where LoRA is not
// empty (then Full is [Base], because every LoRA applies to the original).
type Model struct {
	Full       Artifact
	LoRA       Artifact
	Prediction Prediction
}

// String is "full@8", "base + lora@8" or, when it predicts x0, "full@1 (sample)".
func (m Model) String() string {
	text := string(m.Full)
	if m.LoRA != "" {
		text += " + " + string(m.LoRA)
	}
	if m.Prediction == Sample {
		text += " (sample)"
	}
	return text
}

// Origin says where a part of the discriminator comes from at the start of a
// phase.
type Origin string

const (
	None    Origin = "none"    // the phase has no discriminator
	Fresh   Origin = "fresh"   // backbone: the original UNet's encoder; head: newly initialised
	Carried Origin = "carried" // from the phase before
)

// Step is one phase of a ladder with everything it depends on made explicit.
type Step struct {
	Stage, Phase         int    // indices into Recipe.Stages and Stage.Phases
	StageName, PhaseName string //
	Kind, Target, Form   string // as in Phase
	StudentSteps         int    // N

	Teacher      Model   // frozen; for x0 the frozen network of (29); none for a merge
	TeacherSteps int     // M; 0 for x0 and merge
	Guidance     float64 // of the teacher; 0 = none

	Start     Model // what the student starts from; LoRA empty and Target lora = adapters with up = 0
	FreshLoRA bool  // the adapters are newly initialised

	DiscriminatorBackbone Origin
	DiscriminatorHead     Origin

	Sampler  string // that what it produces is made for, as in configs.Method
	Original int    // steps of the teacher that a consistency model was distilled from; 0 = it is none

	Produces   Artifact
	Prediction Prediction // of what it produces
	Final      bool       // no later phase of the stage makes this artifact again: it is exported

	First   int64 // samples of all phases before this one
	Samples int64 // of this phase, whole updates; 0 for a merge
	Warmup  int64 // the first of them, in which the student is still, where samples counts the student's only; a warm-up that ends early leaves the rest of them out
}

// plan holds the lineage while the ladder is laid out.
type plan struct {
	config *configs.Recipe
	base   Prediction    // what the base model predicts, which its scheduler says
	byStep map[int]Model // best model of each step count
	full   Model         // best full model of the stage before, at first the base
	lora   Artifact      // the last LoRA of the lineage
	ahead  bool          // the stage before made a LoRA and no full model of it
	total  int64
	steps  []Step
}

// Plan lays the recipe's ladder out over a base model of a prediction: which
// teacher each phase has, what its student starts from, whether its
// discriminator is new, and what it makes.
//
// Every LoRA applies to the original base: a stage's LoRA starts from that of
// the stage before. A merge makes the stage's full model of base and LoRA, and
// full phases go on from it; without one in the stage, they go on from the full
// model of the stage before. In the lineage "continued" they always do where an
// earlier stage made one, and the merge before them, whose result nothing would
// use, is left out. Teachers are the best model with their step
// count: full where there is one. The error names the stage and phase whose
// place is impossible.
func Plan(c *configs.Recipe, base Prediction) ([]Step, error) {
	p := plan{config: c, base: base, byStep: map[int]Model{}, full: Model{Full: Base, Prediction: base}}
	for i := range c.Stages {
		if err := p.stage(i); err != nil {
			return nil, err
		}
	}
	return p.steps, nil
}

// stageState is what the phases of one stage hand to each other.
type stageState struct {
	index int
	*configs.Stage
	teacher, skip Model
	lora          bool // a LoRA phase came before
	merged        bool // a merge or a full phase came before
	apart         bool // full phases go on from the stage before, beside the LoRA
	full          Model
	form          string // of the discriminator so far, empty for none
	sampler       string // of the model so far ...
	original      int    // ... as in Step
}

func (p *plan) stage(i int) error {
	s := stageState{index: i, Stage: &p.config.Stages[i], full: p.full}
	var err error
	if s.teacher, err = p.teacher(&s, s.TeacherSteps, "teacher_steps"); err != nil {
		return err
	}
	if s.SkipTeacherSteps > 0 {
		if s.skip, err = p.teacher(&s, s.SkipTeacherSteps, "skip_teacher_steps"); err != nil {
			return err
		}
	}
	first := len(p.steps)
	continued := p.continues(s.Stage)
	for j := range s.Phases {
		if continued && s.lora && s.Phases[j].Kind == configs.KindMerge {
			s.apart = true
			continue
		}
		step, err := p.phase(&s, j)
		if err != nil {
			return err
		}
		p.steps = append(p.steps, step)
		p.total += step.Samples
	}
	last := map[Artifact]int{}
	for k := first; k < len(p.steps); k++ {
		last[p.steps[k].Produces] = k
	}
	for _, k := range last {
		p.steps[k].Final = true
	}
	switch {
	case s.merged:
		p.full, p.ahead = s.full, false
		p.byStep[s.StudentSteps] = s.full
	case s.lora:
		p.ahead = true
		p.byStep[s.StudentSteps] = p.adapted(p.lora)
	}
	return nil
}

// continues reports whether a stage's full phases go on from the full model of
// the stage before, beside the stage's LoRA.
func (p *plan) continues(s *configs.Stage) bool {
	full := func(ph configs.Phase) bool { return ph.Trains() && ph.Target == configs.TargetFull }
	return p.config.Lineage == configs.LineageContinued && p.full.Full != Base && !p.ahead && slices.ContainsFunc(s.Phases, full)
}

// teacher finds the model that plays a teacher of m steps: the base for the
// first stage and for guided ones, else what an earlier stage made.
func (p *plan) teacher(s *stageState, m int, key string) (Model, error) {
	if model, ok := p.byStep[m]; ok {
		return model, nil
	}
	if s.index == 0 || s.Guidance > 0 && key == "teacher_steps" {
		return p.adapted(""), nil
	}
	return Model{}, fmt.Errorf("stage %q needs a teacher of %d steps, and no earlier stage makes one; set its %s to one of %s, or put a stage with student_steps %d before it",
		s.Name, m, key, p.made(), m)
}

// adapted is the base with a LoRA, or without where it is empty.
func (p *plan) adapted(lora Artifact) Model {
	return Model{Full: Base, LoRA: lora, Prediction: p.base}
}

// made lists the step counts made so far, largest first.
func (p *plan) made() string {
	text := ""
	for n := range descending(p.byStep) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprint(n)
	}
	if text == "" {
		return "those that earlier stages make (none so far)"
	}
	return text
}

func (p *plan) phase(s *stageState, j int) (Step, error) {
	ph := &s.Phases[j]
	step := Step{
		Stage: s.index, Phase: j, StageName: s.Name, PhaseName: ph.Name,
		Kind: ph.Kind, Target: ph.Target, Form: ph.Form, StudentSteps: s.StudentSteps,
		DiscriminatorBackbone: None, DiscriminatorHead: None,
		First: p.total,
	}
	refuse := func(format string, args ...any) (Step, error) {
		return Step{}, fmt.Errorf("stage %q, phase %q: %s", s.Name, ph.Name, fmt.Sprintf(format, args...))
	}
	if ph.Trains() {
		batch := int64(max(p.config.Train.GlobalBatch(), 1))
		updates, warmup := updatesOf(ph.Samples, batch), int64(0)
		if ph.CountStudent {
			warmup = updatesOf(ph.WarmupDiscriminator, batch)
		}
		if most := (math.MaxInt64 - p.total) / batch; updates > most || warmup > most-updates {
			return refuse("its %d samples make the ladder longer than can be counted", ph.Samples)
		}
		step.Warmup = warmup * batch
		step.Samples = step.Warmup + updates*batch
	}
	method := ph.Method()
	switch {
	case ph.Kind == configs.KindMerge:
		if !s.lora {
			return refuse("there is no LoRA in this stage to merge; put a LoRA phase before it, or leave it out")
		}
		if s.merged {
			return refuse("the LoRA is merged already, and a second merge would undo the full training since; leave it out")
		}
		s.full = Model{Full: FullOf(s.Name), Prediction: p.base}
		s.merged = true
		step.Start = p.adapted(p.lora)
		step.Produces, step.Prediction = s.full.Full, s.full.Prediction
		step.Sampler, step.Original = s.sampler, s.original
		return step, nil
	case method.Kind == "":
		return refuse("its kind %q is unknown", ph.Kind)
	case method.MakesX0 && ph.Target != configs.TargetFull:
		return refuse("the conversion to x0-prediction trains the full UNet; set its target to full")
	case method.MakesX0 && s.full.Prediction == Sample:
		return refuse("the student predicts x0 already; leave out the second conversion")
	case method.Itself:
		if step.Teacher = s.full; ph.Target == configs.TargetLoRA {
			step.Teacher = p.adapted(p.lora)
		}
	default:
		step.Teacher, step.TeacherSteps, step.Guidance = s.teacher, s.TeacherSteps, s.Guidance
		if ph.Teacher == configs.TeacherSkip {
			if s.SkipTeacherSteps == 0 {
				return refuse("it learns from the skip-level teacher, and the stage has none; set the stage's skip_teacher_steps, or the phase's teacher to stage")
			}
			step.Teacher, step.TeacherSteps, step.Guidance = s.skip, s.SkipTeacherSteps, 0
		}
		if step.Teacher.Prediction == Sample {
			return refuse("its teacher %s predicts x0; a teacher must predict as the base model does, so put the x0 conversion into the last stage", step.Teacher)
		}
	}
	if s.sampler, s.original = method.Sampler, 0; method.Strides {
		s.original = step.TeacherSteps
	}
	step.Sampler, step.Original = s.sampler, s.original
	if method.Critic {
		if ph.Form == "" {
			return refuse("it is adversarial, and the discriminator's form is missing; set form to conditional or unconditional")
		}
		p.discriminator(s, ph, &step)
	}
	switch ph.Target {
	case configs.TargetLoRA:
		if s.merged || s.apart {
			return refuse("a LoRA phase cannot follow a merge or a full phase of its stage, because a LoRA applies to the original base; move it before them, or into a stage of its own")
		}
		step.Start = p.adapted(p.lora)
		step.FreshLoRA = p.lora == ""
		p.lora = LoRAOf(s.Name)
		s.lora = true
		step.Produces, step.Prediction = p.lora, p.base
	case configs.TargetFull:
		if s.lora && !s.merged && !s.apart {
			return refuse("the LoRA trained before is not in the full model; put a merge phase before it")
		}
		if p.ahead && !s.merged {
			return refuse("the stage before made only a LoRA, %s, that is in no full model; end that stage with a merge phase", p.lora)
		}
		step.Start = s.full
		s.full.Full = FullOf(s.Name)
		s.merged = true
		if method.MakesX0 {
			s.full.Prediction = Sample
		}
		step.Produces, step.Prediction = s.full.Full, s.full.Prediction
	default:
		return refuse("its target %q is unknown", ph.Target)
	}
	return step, nil
}

// updatesOf is the number of whole updates that take at least so many samples.
func updatesOf(samples, batch int64) int64 {
	updates := max(samples, 0) / batch
	if samples > 0 && samples%batch != 0 {
		updates++
	}
	return updates
}

// Trains reports whether the phase trains a student; a merge does not.
func (s *Step) Trains() bool { return s.Method().Kind != "" }

// Method is the phase's.
func (s *Step) Method() configs.Method { return configs.MethodOf(s.Kind) }

// RateAt returns where the phase's learning rates stand after done of its
// samples: so many of so many. They do not decay during a warm-up that samples
// does not count.
func (s *Step) RateAt(done int64) (of, total int64) {
	return max(done-s.Warmup, 0), s.Samples - s.Warmup
}

// discriminator decides what of it is new: all at the start of a stage (3.3),
// later only the head, and that only when the form changes its input.
func (p *plan) discriminator(s *stageState, ph *configs.Phase, step *Step) {
	step.DiscriminatorBackbone, step.DiscriminatorHead = Fresh, Fresh
	if s.form != "" && p.config.Discriminator.CarryBackbone {
		step.DiscriminatorBackbone = Carried
		if s.form == ph.Form {
			step.DiscriminatorHead = Carried
		}
	}
	s.form = ph.Form
}

// Path names the step's phase: "8/lora-cond".
func (s Step) Path() string { return s.StageName + "/" + s.PhaseName }
