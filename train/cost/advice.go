package cost

import (
	"fmt"
	"slices"

	"fewstep/configs"
	"fewstep/distill"

	"github.com/gomlx/compute"
)

// Change is a change of a recipe that makes it need less memory.
type Change struct {
	Set    []string `json:"set"`    // as overrides
	Effect string   `json:"effect"` // in words
	Memory int64    `json:"memory_bytes"`
	Host   int64    `json:"host_bytes,omitempty"` // of the host's memory, for offloaded state

	LoRAOnly bool `json:"lora_only,omitempty"` // and phases whose target is full, and merges, are left out
}

// Fit lists changes after each of which every phase of a recipe takes at most limit bytes, the gentlest first. load
// reads the recipe with overrides. Nothing is proposed where even the last change is not enough.
func Fit(b compute.Backend, load func(overrides ...string) (*configs.Recipe, error), m Model, d Device, limit int64) ([]Change, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	try := func(change Change, loraOnly bool) ([]Change, error) {
		changed, err := load(change.Set...)
		if err != nil || changed.Train.Batch%max(d.Devices, 1) != 0 {
			return nil, nil // a change that the recipe's other settings, or the devices, rule out
		}
		if change.LoRAOnly = loraOnly; loraOnly {
			change.Effect = join("only the phases whose target is lora, with teacher and student over one base", change.Effect)
			changed = onlyLoRA(changed)
		}
		if change.Memory, change.Host, err = atMost(b, changed, m, d, limit); err != nil || change.Memory > limit {
			return nil, err
		}
		return []Change{change}, nil
	}
	for _, loraOnly := range []bool{false, true} {
		for _, change := range changes(c) {
			if len(change.Set) == 0 && !loraOnly {
				continue // the recipe itself
			}
			if out, err := try(change, loraOnly); err != nil || len(out) > 0 {
				return out, err
			}
		}
	}
	return nil, nil
}

// changes lists what could be changed, the gentlest first: each way of keeping less, with the micro-batches of the recipe
// and with smaller ones, which change nothing in the result; at last smaller updates.
func changes(c *configs.Recipe) (all []Change) {
	smaller := func(kept Change, effect string, batch, accumulate int) {
		all = append(all, Change{Effect: join(kept.Effect, effect), Set: append(slices.Clone(kept.Set),
			fmt.Sprintf("train.batch=%d", batch), fmt.Sprintf("train.accumulate=%d", accumulate))})
	}
	var kept Change
	less := keepingLess(c)
	if len(less) > 0 && c.Train.Frozen != "bf16" { // which costs nothing where weights are multiplied in bf16
		all = append(all, less[0])
	}
	for _, k := range append([]Change{{}}, less...) {
		kept = Change{Effect: join(kept.Effect, k.Effect), Set: append(slices.Clone(kept.Set), k.Set...)}
		all = append(all, kept)
		for batch := c.Train.Batch / 2; batch >= 1; batch /= 2 {
			smaller(kept, fmt.Sprintf("micro-batches of %d", batch), batch, c.Train.GlobalBatch()/batch)
		}
	}
	for batch := c.Train.Batch; batch >= 1; batch /= 2 {
		if batch < c.Train.GlobalBatch() {
			smaller(kept, fmt.Sprintf("updates of %d samples, no gradients added up", batch), batch, 1)
		}
	}
	return all
}

// keepingLess are the settings by which a recipe's phases keep less on the device.
func keepingLess(c *configs.Recipe) (all []Change) {
	switch {
	case c.Train.Granularity == "network":
		all = append(all, Change{Effect: "one program per layer, frozen weights in bf16", Set: []string{"train.granularity=layer", "train.calls=layer", "train.frozen=bf16"}})
	case c.Train.Frozen != "bf16":
		all = append(all, Change{Effect: "frozen weights in bf16", Set: []string{"train.frozen=bf16"}})
	}
	if c.Train.Moments != "bf16" {
		all = append(all, Change{Effect: "Adam's moments in bf16", Set: []string{"train.moments=bf16"}})
	}
	if c.Train.Offload == configs.OffloadNone {
		all = append(all, Change{Effect: "the optimizer's state in the host's memory", Set: []string{"train.offload=optimizer"}})
	}
	adversarial := slices.ContainsFunc(c.Stages, func(s configs.Stage) bool { return s.Loss == configs.LossAdversarial })
	if adversarial && c.Discriminator.Target != configs.TargetLoRA {
		all = append(all, Change{Effect: "a discriminator of adapters over the frozen base", Set: []string{"discriminator.target=lora"}})
	}
	return all
}

// onlyLoRA is a recipe without merges and full phases: its teachers and starts are then LoRAs of the base, too.
func onlyLoRA(c *configs.Recipe) *configs.Recipe {
	out := *c
	out.Stages = nil
	for _, s := range c.Stages {
		s.Phases = slices.DeleteFunc(slices.Clone(s.Phases), func(p configs.Phase) bool { return p.Target != configs.TargetLoRA })
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

// atMost is the memory of a recipe's largest phase, or of the first that takes more than limit, and the host's.
func atMost(b compute.Backend, c *configs.Recipe, m Model, d Device, limit int64) (bytes, host int64, err error) {
	steps, err := distill.Plan(c, distill.Epsilon) // the cost is the same, whatever the base predicts
	if err != nil {
		return 0, 0, err
	}
	weight := func(s distill.Step) (w int) { // the likely largest first
		if s.Target == configs.TargetFull {
			w -= 4
		}
		if s.Method().Critic {
			w -= 2
		}
		if s.Form == configs.FormConditional {
			w--
		}
		return w
	}
	slices.SortStableFunc(steps, func(a, b distill.Step) int { return weight(a) - weight(b) })
	seen := map[string]bool{}
	for _, s := range steps {
		if !s.Trains() || seen[alike(c, s)] {
			continue
		}
		seen[alike(c, s)] = true
		one, err := memory(b, c, m, s, d, limit)
		if err != nil {
			return 0, 0, fmt.Errorf("stage %s, phase %s: %w", s.StageName, s.PhaseName, err)
		}
		host = max(host, one.Host)
		if bytes = max(bytes, one.Total); bytes > limit {
			break
		}
	}
	return bytes, host, nil
}
