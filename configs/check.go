package configs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	targets  = []string{TargetLoRA, TargetFull}
	forms    = []string{FormConditional, FormUnconditional}
	teachers = []string{TeacherStage, TeacherSkip}
	decays   = []string{DecayConstant, DecayLinear}
	losses   = []string{LossMSE, LossAdversarial}
	features = []string{FeaturesMid, FeaturesLevels}
	lineages = []string{LineageMerged, LineageContinued}
	computes = []string{"f32", "bf16"}
	shards   = []string{ShardReplicated, ShardSharded}
	offloads = []string{OffloadNone, OffloadOptimizer}
	granular = []string{"network", "stage", "layer"} // from coarse to fine
)

// Validate checks that every value of the recipe is in its range. The error lists every problem, each a sentence that opens with
// the key and says what to do. Whether the phases are in a possible order is for distill.Plan to say.
func (c *Recipe) Validate() error {
	v := &checker{}
	v.word("name", c.Name)
	v.require("model", c.Model != "", "is missing; name the diffusers directory of the base model")
	c.Data.check(v)
	c.Train.check(v)
	v.require("lora.rank", c.LoRA.Rank >= 1, "must be at least 1, and is %d", c.LoRA.Rank)
	v.require("lora.alpha", c.LoRA.Alpha > 0, "must be positive, and is %g; equal to the rank it gives scale 1", c.LoRA.Alpha)
	c.Discriminator.check(v)
	v.oneOf("lineage", c.Lineage, lineages)
	c.Eval.check(v)
	v.require("stages", len(c.Stages) > 0, "are missing; write stages: lightning for the paper's ladder")
	for i := range c.Stages {
		s := &c.Stages[i]
		key := fmt.Sprintf("stages.%s", s.Name)
		v.word(fmt.Sprintf("stages[%d].name", i), s.Name)
		v.require(key, findStage(c.Stages, s.Name) == s, "stands twice; give the second one another name (like: %s keeps its settings)", s.Name)
		s.check(v, key)
		for _, p := range s.Phases {
			v.require(key+".phases."+p.Name+".samples", c.Data.Buckets.List == BucketsNone || c.Train.Batch < 1 || p.Samples%int64(c.Train.Batch) == 0 && p.WarmupDiscriminator%int64(c.Train.Batch) == 0,
				"and its warmup_discriminator must be multiples of train.batch %d with data.buckets, so that every micro-batch is of one shape; they are %d and %d",
				c.Train.Batch, p.Samples, p.WarmupDiscriminator)
			if check := p.Method().Check; check != nil {
				check(c, &p, func(name string, ok bool, format string, args ...any) {
					v.require(key+".phases."+p.Name+"."+name, ok, format, args...)
				})
			}
			v.require(key+".phases."+p.Name+".warmup_accuracy", p.WarmupAccuracy == 0 || !p.Method().Critic || p.WarmupDiscriminator >= c.Discriminator.GateWindow,
				"is %g, and needs a warmup_discriminator of at least discriminator.gate_window %d, over which accuracy is averaged; it is %d",
				p.WarmupAccuracy, c.Discriminator.GateWindow, p.WarmupDiscriminator)
		}
	}
	v.require("discriminator.carry_optimizer", !c.Discriminator.CarryOptimizer || c.Discriminator.CarryBackbone,
		"is true, and with carry_backbone false nothing is carried that its state belongs to")
	return errors.Join(v.problems...)
}

type checker struct{ problems []error }

func (v *checker) require(key string, ok bool, format string, args ...any) {
	if !ok {
		v.problems = append(v.problems, fmt.Errorf("%s %s", key, fmt.Sprintf(format, args...)))
	}
}

func (v *checker) oneOf(key, value string, allowed []string) {
	if slices.Contains(allowed, value) {
		return
	}
	if value == "" {
		v.require(key, false, "is missing; it is one of %s", strings.Join(allowed, ", "))
		return
	}
	hint := suggest(value, allowed)
	if strings.HasPrefix(hint, "; known") {
		hint = ""
	}
	v.require(key, false, "must be one of %s, and is %q%s", strings.Join(allowed, ", "), value, hint)
}

// word checks a name that becomes a folder and a part of dotted keys.
func (v *checker) word(key, name string) {
	ok := name != ""
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}
	v.require(key, ok, "is %q; use letters, digits, - and _ only", name)
}

func (v *checker) fraction(key string, x float64) {
	v.require(key, x >= 0 && x < 1, "must be at least 0 and below 1, and is %g", x)
}

func (t *Train) check(v *checker) {
	v.require("train.batch", t.Batch >= 1 && t.Batch <= 1<<20, "must be between 1 and 1048576, and is %d", t.Batch)
	v.require("train.accumulate", t.Accumulate >= 1 && t.Accumulate <= 1<<20, "must be between 1 and 1048576, and is %d; 1 updates after every micro-batch", t.Accumulate)
	v.oneOf("train.compute", t.Compute, computes)
	v.oneOf("train.granularity", t.Granularity, granular)
	v.oneOf("train.calls", t.CallGranularity(), granular)
	v.require("train.calls", slices.Index(granular, t.CallGranularity()) <= slices.Index(granular, t.Granularity),
		"must be at least as coarse as train.granularity %s, and is %s; leave it out for the same", t.Granularity, t.Calls)
	v.oneOf("train.frozen", t.Frozen, computes)
	v.require("train.frozen", t.Frozen != "bf16" || t.Granularity != "network",
		"is bf16, which saves memory that only large networks are short of; with it train.granularity must be stage or layer")
	v.oneOf("train.moments", t.Moments, computes)
	v.oneOf("train.reduce", t.Reduce, computes)
	v.oneOf("train.shard", t.Shard, shards)
	v.require("train.shard", t.Shard != ShardSharded || t.Granularity != "network",
		"is sharded, and at train.granularity network an update takes all state at once; with it train.granularity must be stage or layer")
	v.oneOf("train.offload", t.Offload, offloads)
	v.require("train.offload", t.Offload != OffloadOptimizer || t.Granularity != "network",
		"is optimizer, and at train.granularity network an update takes all state at once; with it train.granularity must be stage or layer")
	v.require("train.checkpoint_minutes", t.CheckpointMinutes >= 0, "must not be negative, and is %g; 0 saves by samples only", t.CheckpointMinutes)
	v.require("train.checkpoint_samples", t.CheckpointSamples >= 0, "must not be negative, and is %d; 0 saves by time only", t.CheckpointSamples)
	v.require("train.keep_checkpoints", t.KeepCheckpoints >= 2, "must be at least 2, and is %d; with fewer, a crash while saving could leave none", t.KeepCheckpoints)
	v.fraction("train.ema", t.EMA)
	v.require("train.clip_norm", t.ClipNorm >= 0, "must not be negative, and is %g; 0 switches clipping off", t.ClipNorm)
	v.require("train.adam_epsilon", t.AdamEpsilon > 0, "must be positive, and is %g; 1e-8 is usual", t.AdamEpsilon)
}

func (d *Discriminator) check(v *checker) {
	v.oneOf("discriminator.target", d.Target, targets)
	v.oneOf("discriminator.features", d.Features, features)
	v.require("discriminator.head_channels", d.HeadChannels >= 0, "must not be negative, and is %d; 0 takes the mid block's width", d.HeadChannels)
	v.require("discriminator.head_groups", d.HeadGroups >= 0, "must not be negative, and is %d; 0 takes the UNet's", d.HeadGroups)
	if d.HeadChannels > 0 && d.HeadGroups > 0 {
		v.require("discriminator.head_groups", d.HeadChannels%d.HeadGroups == 0, "must divide head_channels: %d channels do not fall into %d groups", d.HeadChannels, d.HeadGroups)
	}
	v.require("discriminator.r1", d.R1 >= 0, "must not be negative, and is %g; 0 switches the penalty off", d.R1)
	v.require("discriminator.r1_sigma", d.R1Sigma > 0, "must be positive, and is %g; 0.01 is usual", d.R1Sigma)
	v.require("discriminator.gate_window", d.GateWindow >= 1, "must be at least 1 sample, and is %d", d.GateWindow)
	v.require("discriminator.collapse_window", d.CollapseWindow >= 0, "must not be negative, and is %d; 0 does not watch for collapse", d.CollapseWindow)
	v.require("discriminator.collapse_loss", d.CollapseLoss >= 0, "must not be negative, and is %g", d.CollapseLoss)
	v.require("discriminator.collapse_accuracy", d.CollapseAccuracy >= 0 && d.CollapseAccuracy <= 1, "must be between 0 and 1, and is %g", d.CollapseAccuracy)
}

func (e *Eval) check(v *checker) {
	v.require("eval.samples", e.Samples >= 4, "must be at least 4, because covariances are measured, of halves too, and is %d", e.Samples)
	v.require("eval.batch", e.Batch >= 1, "must be at least 1, and is %d", e.Batch)
	v.require("eval.guidance", e.Guidance >= 0, "must not be negative, and is %g; 0 or 1 is no guidance", e.Guidance)
	v.require("eval.teacher_steps", e.TeacherSteps >= 1, "must be at least 1, and is %d", e.TeacherSteps)
	for _, n := range e.Steps {
		v.require("eval.steps", n >= 1, "must all be at least 1, and one is %d", n)
	}
	v.require("eval.sheet_samples", e.SheetSamples >= 0, "must not be negative, and is %d; 0 makes no sheets", e.SheetSamples)
	v.require("eval.bootstrap", e.Bootstrap == 0 || e.Bootstrap >= 20, "must be at least 20 for an interval, and is %d; 0 gives no intervals", e.Bootstrap)
	v.require("eval.convention", e.Convention == "mini-clip",
		"must be mini-clip, by which a run's own report measures, and is %q; for other conventions use 'fewstep eval --follow RUN --convention NAME'", e.Convention)
}

func (s *Stage) check(v *checker, key string) {
	v.oneOf(key+".loss", s.Loss, losses)
	v.require(key+".student_steps", s.StudentSteps >= 1, "must be at least 1, and is %d", s.StudentSteps)
	if s.StudentSteps >= 1 {
		if s.strides() {
			v.require(key+".teacher_steps", s.TeacherSteps > s.StudentSteps, "must be more than student_steps %d, and is %d; consistency models are distilled at 50", s.StudentSteps, s.TeacherSteps)
		} else {
			v.teacherSteps(key+".teacher_steps", s.TeacherSteps, s.StudentSteps)
		}
		if s.SkipTeacherSteps != 0 {
			v.teacherSteps(key+".skip_teacher_steps", s.SkipTeacherSteps, s.StudentSteps)
		}
	}
	v.require(key+".guidance", s.Guidance >= 0, "must not be negative, and is %g; 0 is no guidance", s.Guidance)
	for i, t := range s.Timesteps {
		v.require(key+".timesteps", t >= 1, "must all be at least 1, and one is %d", t)
		v.require(key+".timesteps", !slices.Contains(s.Timesteps[:i], t), "must differ, and %d stands twice", t)
	}
	for _, t := range s.NoiseLevels {
		v.require(key+".noise_levels", t >= 1, "must all be at least 1, and one is %d", t)
	}
	v.weights(key+".noise_weights", s.NoiseWeights, len(s.NoiseLevels))
	v.require(key+".phases", len(s.Phases) > 0, "are missing; a stage needs at least one phase")
	for i := range s.Phases {
		p := &s.Phases[i]
		at := key + ".phases." + p.Name
		v.word(fmt.Sprintf("%s.phases[%d].name", key, i), p.Name)
		v.require(at, s.Phase(p.Name) == p, "stands twice; give the second one another name (like: %s keeps its settings)", p.Name)
		p.check(v, at, s)
	}
}

// strides reports whether a phase of the stage learns one step of its teacher at a time.
func (s *Stage) strides() bool {
	return slices.ContainsFunc(s.Phases, func(p Phase) bool { return p.Method().Strides })
}

func (v *checker) teacherSteps(key string, m, n int) {
	v.require(key, m > n && m%n == 0, "must be a multiple of student_steps %d, and is %d; %d would do", n, m, 2*n)
}

func (v *checker) weights(key string, weights []float64, levels int) {
	if len(weights) == 0 {
		return
	}
	sum, ok := 0.0, true
	for _, w := range weights {
		sum += w
		ok = ok && w >= 0
	}
	v.require(key, len(weights) == levels, "must be as many as the stage's %d noise_levels, and are %d", levels, len(weights))
	v.require(key, ok && sum > 0, "must not be negative nor all zero, and are %v", weights)
}

func (p *Phase) check(v *checker, key string, s *Stage) {
	v.oneOf(key+".kind", p.Kind, Kinds())
	if p.Kind == KindMerge {
		v.require(key+".samples", p.Samples == 0, "must be 0, because a merge trains nothing, and is %d", p.Samples)
		return
	}
	v.oneOf(key+".target", p.Target, targets)
	v.oneOf(key+".teacher", p.Teacher, teachers)
	v.oneOf(key+".decay", p.Decay, decays)
	v.require(key+".samples", p.Samples >= 1, "must be at least 1, and is %d; leave the phase out of the list to skip it", p.Samples)
	v.require(key+".lr", p.LR > 0, "must be positive, and is %g", p.LR)
	v.require(key+".discriminator_lr", p.DiscriminatorLR >= 0, "must not be negative, and is %g; 0 takes lr", p.DiscriminatorLR)
	v.fraction(key+".beta1", p.Beta1)
	v.fraction(key+".beta2", p.Beta2)
	v.require(key+".weight_decay", p.WeightDecay >= 0, "must not be negative, and is %g", p.WeightDecay)
	v.require(key+".discriminator_weight_decay", p.DiscriminatorWeightDecay >= 0, "must not be negative, and is %g", p.DiscriminatorWeightDecay)
	v.require(key+".gate", p.Gate >= 0 && p.Gate <= 1, "is an accuracy between 0 and 1, and is %g; 0 switches it off", p.Gate)
	v.require(key+".gate", p.Gate == 0 || !p.CountStudent, "must be 0 with count_student: a phase whose gate stays shut would not end")
	v.require(key+".warmup_discriminator", p.WarmupDiscriminator >= 0 && (p.CountStudent || p.WarmupDiscriminator < max(p.Samples, 1)),
		"must be at least 0 and below the phase's %d samples, and is %d; with count_student it comes before them", p.Samples, p.WarmupDiscriminator)
	v.require(key+".warmup_accuracy", p.WarmupAccuracy >= 0 && p.WarmupAccuracy <= 1, "is an accuracy between 0 and 1, and is %g; 0 lets the warm-up run its length", p.WarmupAccuracy)
	v.weights(key+".noise_weights", p.NoiseWeights, len(s.NoiseLevels))
	v.require(key+".closed_form", p.ClosedForm >= 0, "must not be negative, and is %d; 0 starts from the weights that predict ε", p.ClosedForm)
	v.require(key+".closed_form", p.ClosedForm == 0 || p.Method().MakesX0, "must be 0, because only a phase of kind x0 changes what conv_out is to predict")
	if p.Kind != KindLCM {
		v.require(key+".huber", p.Huber == 0, "must be 0, because only a phase of kind lcm has it")
		v.require(key+".target_ema", p.TargetEMA == 0, "must be 0, because only a phase of kind lcm has a target network")
		v.require(key+".guidance_to", p.GuidanceTo == 0, "must be 0, because only a phase of kind lcm draws its guidance")
	}
	if p.Method().Critic {
		v.require(key+".form", slices.Contains(forms, p.Form), "must be conditional or unconditional in an adversarial phase, and is %q", p.Form)
		v.require(key+".kind", s.Loss == LossAdversarial, "is adversarial, and the stage's loss is %s; set the stage's loss to adversarial", s.Loss)
		return
	}
	v.require(key+".form", p.Form == "", "must be empty, because a phase of kind %s has no discriminator, and is %q", p.Kind, p.Form)
	v.require(key+".warmup_discriminator", p.WarmupDiscriminator == 0, "must be 0, because a phase of kind %s has no discriminator", p.Kind)
	v.require(key+".warmup_accuracy", p.WarmupAccuracy == 0, "must be 0, because a phase of kind %s has no discriminator", p.Kind)
	v.require(key+".count_student", !p.CountStudent, "must be false, because every update of a phase of kind %s moves the student", p.Kind)
	v.require(key+".gate", p.Gate == 0, "must be 0, because a phase of kind %s has no discriminator", p.Kind)
	v.require(key+".discriminator_weight_decay", p.DiscriminatorWeightDecay == 0, "must be 0, because a phase of kind %s has no discriminator", p.Kind)
}

// CheckTimesteps checks the recipe against the last timestep of its base model's schedule: timesteps, noise levels and step counts
// must not exceed it, and the teacher's steps of a consistency model must divide it.
func (c *Recipe) CheckTimesteps(last int) error {
	v := &checker{}
	for _, st := range c.Stages {
		key := "stages." + st.Name
		for _, t := range append(slices.Clone(st.Timesteps), st.NoiseLevels...) {
			v.require(key, t <= last, "has the timestep %d, and the base model's schedule ends at %d", t, last)
		}
		v.require(key, !st.strides() || last%max(st.TeacherSteps, 1) == 0, "has a teacher of %d steps, and consistency models take their steps where these divide the base model's %d timesteps; 50 is usual", st.TeacherSteps, last)
		v.require(key, max(st.TeacherSteps, st.SkipTeacherSteps) <= last, "has a teacher of %d steps, and the base model's schedule has %d timesteps", max(st.TeacherSteps, st.SkipTeacherSteps), last)
	}
	for _, n := range append(slices.Clone(c.Eval.Steps), c.Eval.TeacherSteps) {
		v.require("eval.steps", n <= last, "has %d steps, and the base model's schedule has %d timesteps", n, last)
	}
	return errors.Join(v.problems...)
}
