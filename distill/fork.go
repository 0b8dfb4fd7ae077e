package distill

import (
	"fewstep/configs"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// DiffBefore names the keys on which the first n phases of a recipe's ladder depend and in which two recipes differ, as
// [configs.Diff] does. Where there are none, either recipe's phases give the same results.
//
// What only later phases depend on may differ, and so may the names of run, model and data set (their content is for the
// caller to compare), the keys under eval, and those that say when something is saved or shown.
func DiffBefore(a, b *configs.Recipe, n int) ([]string, error) {
	left, err := Plan(a, Epsilon)
	if err != nil {
		return nil, err
	}
	right, err := Plan(b, Epsilon)
	if err != nil {
		return nil, err
	}
	if out := configs.Diff(before(a, left, n), before(b, right, n)); len(out) > 0 {
		return out, nil
	}
	for i := range n {
		x, y := left[i], right[i]
		x.Final, y.Final = false, false // what is exported depends on later phases
		if !reflect.DeepEqual(x, y) {
			return []string{fmt.Sprintf("stage %s, phase %s: %s", y.StageName, y.PhaseName, stepDifference(x, y))}, nil
		}
	}
	return nil, nil
}

// Shared counts the first phases of b's ladder whose results are those of a's ladder, so that a run of b may begin with them. It
// counts at most all phases but the last.
func Shared(a, b *configs.Recipe) (int, error) {
	left, err := Plan(a, Epsilon)
	if err != nil {
		return 0, err
	}
	right, err := Plan(b, Epsilon)
	if err != nil {
		return 0, err
	}
	for n := min(len(left), len(right)-1); n > 0; n-- {
		if differences, err := DiffBefore(a, b, n); err != nil || len(differences) == 0 {
			return n, err
		}
	}
	return 0, nil
}

// stepDifference says in what two recipes' same phase differs by its place in their ladders.
func stepDifference(a, b Step) string {
	for _, f := range []struct {
		what     string
		from, to any
	}{
		{"teacher", a.Teacher, b.Teacher}, {"start", a.Start, b.Start},
		{"discriminator's backbone", a.DiscriminatorBackbone, b.DiscriminatorBackbone}, {"discriminator's head", a.DiscriminatorHead, b.DiscriminatorHead},
		{"first sample", a.First, b.First}, {"samples", a.Samples, b.Samples},
	} {
		if !reflect.DeepEqual(f.from, f.to) {
			return fmt.Sprintf("%s: %v → %v", f.what, f.from, f.to)
		}
	}
	return "its place in the ladder"
}

// Before returns the phases before the first of a stage, or before "STAGE/PHASE".
func (l *Ladder) Before(at string) ([]Step, error) {
	stage, phase, named := strings.Cut(at, "/")
	var stages, phases []string
	for i, s := range l.steps {
		if s.StageName == stage && (!named || s.PhaseName == phase) {
			if i == 0 {
				return nil, fmt.Errorf("%s is where the ladder begins: there is nothing before it", at)
			}
			return l.steps[:i], nil
		}
		if !slices.Contains(stages, s.StageName) {
			stages = append(stages, s.StageName)
		}
		if s.StageName == stage {
			phases = append(phases, s.PhaseName)
		}
	}
	if len(phases) > 0 {
		return nil, fmt.Errorf("stage %s has no phase %q; its phases are %s", stage, phase, strings.Join(phases, ", "))
	}
	return nil, fmt.Errorf("there is no stage %q; the stages are %s", stage, strings.Join(stages, ", "))
}

// before is what the first n phases of a recipe depend on: the rest has no value.
func before(c *configs.Recipe, steps []Step, n int) *configs.Recipe {
	n = min(n, len(steps))
	out := c.Without(configs.Always, configs.Fork)
	out.Train.Calls = out.Train.CallGranularity()
	d := &out.Discriminator
	d.CarryBackbone, out.Lineage = false, "" // the steps say of each phase what it carries and starts from
	adversarial, lora := false, false
	for _, s := range steps[:n] {
		adversarial = adversarial || s.Method().Critic
		lora = lora || s.Target == configs.TargetLoRA
	}
	if !adversarial {
		out.Discriminator = configs.Discriminator{}
	}
	if !lora && !(adversarial && d.Target == configs.TargetLoRA) {
		out.LoRA = configs.LoRA{}
	}
	out.Stages = nil
	for i := range c.Stages {
		s := c.Stages[i]
		var phases []configs.Phase
		for _, step := range steps[:n] {
			if step.Stage == i {
				phases = append(phases, s.Phases[step.Phase])
			}
		}
		if len(phases) == 0 {
			break
		}
		s.Phases = phases
		s.Loss = "" // it only says which kinds of phases there may be
		uses := func(is func(configs.Phase) bool) bool {
			for _, p := range s.Phases {
				if is(p) {
					return true
				}
			}
			return false
		}
		if !uses(func(p configs.Phase) bool { return p.Method().Critic }) {
			s.NoiseLevels, s.NoiseWeights = nil, nil
		}
		if !uses(func(p configs.Phase) bool { return p.Teacher == configs.TeacherSkip }) {
			s.SkipTeacherSteps = 0
		}
		if !uses(func(p configs.Phase) bool { return p.Trains() }) {
			s.Timesteps = nil
		}
		out.Stages = append(out.Stages, s)
	}
	return out
}
