package cost

import (
	"fmt"
	"slices"

	"fewstep/distill"

	"github.com/gomlx/compute"
)

// Change is a change of a recipe that makes it need less memory.
type Change struct {
	Set    []string `json:"set"`    // as overrides
	Effect string   `json:"effect"` // in words
	Memory int64    `json:"memory_bytes"`
}

// Fit lists changes after each of which every phase of a recipe takes at most limit bytes, the gentlest first. load
// reads the recipe with overrides. Nothing is proposed where even the last change is not enough.
func Fit(b compute.Backend, load func(overrides ...string) (*distill.Config, error), m Model, d Device, limit int64) ([]Change, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	narrow := Change{Effect: "frozen weights in bf16", Set: []string{"train.frozen=bf16"}}
	if c.Train.Granularity == "network" {
		narrow = Change{Effect: "one program per layer, frozen weights in bf16", Set: []string{"train.granularity=layer", "train.calls=layer", "train.frozen=bf16"}}
	}
	var steps []Change
	small := func(with Change) {
		for batch := c.Train.Batch / 2; batch >= 1; batch /= 2 {
			steps = append(steps, Change{Effect: join(with.Effect, fmt.Sprintf("micro-batches of %d", batch)),
				Set: append(append([]string{}, with.Set...), fmt.Sprintf("train.batch=%d", batch), fmt.Sprintf("train.accumulate=%d", c.Train.GlobalBatch()/batch))})
		}
	}
	if c.Train.Frozen != "bf16" {
		steps = append(steps, narrow)
	} else {
		narrow = Change{}
	}
	small(Change{})
	if len(narrow.Set) > 0 {
		small(narrow)
	}
	for batch := c.Train.Batch; batch >= 1; batch /= 2 {
		if batch < c.Train.GlobalBatch() {
			steps = append(steps, Change{Effect: join(narrow.Effect, fmt.Sprintf("updates of %d samples, no gradients added up", batch)),
				Set: append(slices.Clone(narrow.Set), fmt.Sprintf("train.batch=%d", batch), "train.accumulate=1")})
		}
	}
	var out []Change
	try := func(change Change, loraOnly bool) (bool, error) {
		changed, err := load(change.Set...)
		if err != nil {
			return false, nil // a change that the recipe's other settings rule out
		}
		if loraOnly {
			changed = onlyLoRA(changed)
		}
		if change.Memory, err = atMost(b, changed, m, d, limit); err != nil {
			return false, err
		}
		if change.Memory <= limit {
			out = append(out, change)
		}
		return change.Memory <= limit, nil
	}
	for _, s := range steps {
		if enough, err := try(s, false); err != nil || enough {
			return out, err
		}
	}
	// Then only the adapters.
	for _, s := range append([]Change{{}}, steps...) {
		s.Effect = join("only the phases whose target is lora, with teacher and student over one base", s.Effect)
		if enough, err := try(s, true); err != nil || enough {
			return out, err
		}
	}
	return out, nil
}

// onlyLoRA is a recipe without merges and full phases: its teachers and starts are then LoRAs of the base, too.
func onlyLoRA(c *distill.Config) *distill.Config {
	out := *c
	out.Stages = nil
	for _, s := range c.Stages {
		s.Phases = slices.DeleteFunc(slices.Clone(s.Phases), func(p distill.Phase) bool { return p.Target != distill.TargetLoRA })
		if len(s.Phases) > 0 {
			out.Stages = append(out.Stages, s)
		}
	}
	return &out
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// atMost is the memory of a recipe's largest phase, or of the first that takes more than limit.
func atMost(b compute.Backend, c *distill.Config, m Model, d Device, limit int64) (bytes int64, err error) {
	steps, err := distill.Plan(c)
	if err != nil {
		return 0, err
	}
	weight := func(s distill.Step) (w int) { // the likely largest first
		if s.Target == distill.TargetFull {
			w -= 4
		}
		if s.Kind == distill.KindAdversarial {
			w -= 2
		}
		if s.Form == distill.FormConditional {
			w--
		}
		return w
	}
	slices.SortStableFunc(steps, func(a, b distill.Step) int { return weight(a) - weight(b) })
	seen := map[string]bool{}
	for _, s := range steps {
		if s.Kind == distill.KindMerge || seen[alike(c, s)] {
			continue
		}
		seen[alike(c, s)] = true
		one, err := memory(b, c, m, s, d)
		if err != nil {
			return 0, fmt.Errorf("stage %s, phase %s: %w", s.StageName, s.PhaseName, err)
		}
		if bytes = max(bytes, one.Total); bytes > limit {
			break
		}
	}
	return bytes, nil
}
