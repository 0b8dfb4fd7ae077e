package configs

import (
	"strings"
	"testing"
)

// A phase of kind lcm has its method's defaults and keys, which no other kind has, and its stage's teacher walks a grid that
// LCM's sampler knows.
func TestConsistencyKeys(t *testing.T) {
	const stage = `stages:
  - {name: c, loss: mse, teacher_steps: 50, student_steps: 4, phases: [{name: p, kind: lcm, samples: 64, lr: 1e-4}, {name: m, kind: mse, samples: 64, lr: 1e-4}]}
`
	c := mustParse(t, minimal+stage)
	p := c.Stages[0].Phases[0]
	if p.Huber != 0.001 || p.TargetEMA != 0.95 || p.GuidanceTo != 0 || p.Beta1 != 0.9 || p.Target != TargetFull {
		t.Errorf("defaults %+v", p)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	for override, want := range map[string]string{
		"stages.c.phases.p.huber=-1": "stages.c.phases.p.huber", "stages.c.phases.p.target_ema=1": "stages.c.phases.p.target_ema",
		"stages.c.phases.p.guidance_to=-1": "stages.c.phases.p.guidance_to", "train.ema=0.5": "train.ema", "train={offload: optimizer, granularity: layer}": "train.offload",
		"stages.c.phases.m.huber=0.1": "only a phase of kind lcm", "stages.c.phases.m.target_ema=0.5": "only a phase of kind lcm", "stages.c.phases.m.guidance_to=4": "only a phase of kind lcm",
		"stages.c.teacher_steps=3": "stages.c.teacher_steps",
	} {
		c := mustParse(t, minimal+stage)
		if err := c.Set(override); err != nil {
			t.Fatal(override, err)
		}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", override, err, want)
		}
	}
	c.Stages[0].TeacherSteps = 48
	if err := c.CheckTimesteps(1000); err == nil || !strings.Contains(err.Error(), "48") {
		t.Errorf("a grid of 48 of 1000 timesteps: %v", err)
	}
}
