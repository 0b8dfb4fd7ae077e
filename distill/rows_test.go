package distill

import (
	"fewstep/configs"
	"strings"
	"testing"
)

// Every row of an ablation is a recipe: what it changes in the paper's ladder, and a line of the plan that shows it.
func TestRowsOfAnAblation(t *testing.T) {
	const unconditional = "{form: unconditional, teacher: stage}"
	for _, row := range []struct {
		name     string
		set      []string
		shows    string
		lacks    string
		fragment string // a whole recipe's stages in place of set
	}{
		{name: "full recipe", shows: "8/lora-cond: adversarial conditional of lora"},
		{name: "paired gate", set: []string{"stages.8.phases.*.gate=0.55"}, shows: "8/lora-cond"},
		{name: "full continued", set: []string{"lineage=continued"}, shows: "from full@8; discriminator", lacks: "4/merge"},
		{name: "stage teacher", set: []string{"stages.2.phases.lora-uncond.teacher=stage", "stages.2.phases.full-uncond.teacher=stage", "stages.1.phases.full-uncond.teacher=stage"},
			shows: "1/full-uncond: adversarial unconditional of full, 512000 samples from 6656000; teacher full@2 in 2 steps"},
		{name: "own grid", set: []string{"stages.2.timesteps=[1000, 500]", "stages.1.timesteps=[1000]"}, shows: "2/lora-cond"},
		{name: "no t*", set: []string{"stages.1.noise_levels=[]", "stages.1.noise_weights=[]", "stages.1.phases.full-uncond.noise_weights=[]"}, shows: "1/full-cond"},
		{name: "other t*", set: []string{"stages.1.noise_levels=[5, 100, 400]", "stages.1.noise_weights=[]", "stages.1.phases.full-uncond.noise_weights=[]", "stages.2.noise_levels=[10, 250]"}, shows: "1/full-cond"},
		{name: "equal weights", set: []string{"stages.1.phases.full-uncond.noise_weights=[1, 1, 1, 1]"}, shows: "1/full-uncond"},
		{name: "equal rates", set: []string{"stages.*.phases.*.discriminator_lr=0"}, shows: "1/full-uncond"},
		{name: "fresh discriminator", set: []string{"discriminator.carry_backbone=false"}, shows: "discriminator: backbone fresh, head fresh", lacks: "carried"},
		{name: "conditional only", set: []string{"stages.8.phases.lora-uncond={form: conditional, teacher: stage}", "stages.8.phases.full-uncond={form: conditional, teacher: stage}"},
			shows: "8/lora-uncond: adversarial conditional"},
		{name: "unconditional only", set: []string{"stages.8.phases.lora-cond=" + unconditional, "stages.1.phases.full-cond=" + unconditional}, shows: "8/lora-cond: adversarial unconditional"},
		{name: "no full phase", fragment: `["32", {name: "8", phases: [lora-cond, lora-uncond, merge]}, {name: "4", phases: [lora-cond, lora-uncond, merge]}, {name: "2", phases: [lora-cond, lora-uncond, merge]}, "1"]`,
			shows: "8/merge: merge; from base + lora@8; makes full@8, exported", lacks: "8/full-uncond"},
		{name: "ε-prediction at one step", fragment: `["32", "8", "4", "2", {name: "1", phases: [full-cond, full-uncond]}]`,
			shows: "1/full-uncond: adversarial unconditional of full, 512000 samples from 6144000; teacher full@4 in 4 steps; from full@1; discriminator: backbone carried, head fresh; makes full@1, exported", lacks: "(sample)"},
		{name: "MSE only", fragment: `
- "32"
- name: "8"
  phases: [{name: lora, kind: mse, target: lora, samples: 512, lr: 1e-5}, merge, {name: full, kind: mse, samples: 512, lr: 1e-5}]
- name: "1"
  teacher_steps: 8
  skip_teacher_steps: 0
  phases: [x0, {name: full, kind: mse, samples: 512, lr: 1e-5}]`, shows: "1/full: mse of full", lacks: "adversarial"},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := minimal
			if row.fragment != "" {
				text += "\nstages: " + row.fragment
			}
			c := mustParse(t, text)
			for _, s := range row.set {
				if err := c.Set(s); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			schedule := SDXLSchedule()
			if err := c.CheckTimesteps(schedule.T()); err != nil {
				t.Fatal(err)
			}
			p := player{config: c}
			var err error
			if p.ladder, err = NewLadder(c, Epsilon); err != nil {
				t.Fatal(err)
			}
			for _, s := range p.ladder.Steps() {
				if s.Kind == configs.KindMerge {
					continue
				}
				sampler, err := NewSampler(schedule, c, s)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := sampler.Batch(0, 16); err != nil {
					t.Fatal(err)
				}
			}
			plan := p.command([]string{"plan"}, "")
			if !strings.Contains(plan, row.shows) || row.lacks != "" && strings.Contains(plan, row.lacks) {
				t.Errorf("the plan is to show %q and not %q:\n%s", row.shows, row.lacks, plan)
			}
		})
	}
}
