package distill

import (
	"fewstep/configs"
	"strings"
	"testing"
)

// What the phases before a point depend on is told from what only later ones do.
func TestDiffBefore(t *testing.T) {
	base := func() *configs.Recipe {
		c := configs.Default()
		c.Model, c.Data.Source = "model", "data.parquet"
		return c
	}
	for _, c := range []struct {
		set, from string
		want      string // in the differences; "" = none
	}{
		{"stages.8.phases.lora-cond.lr=1e-3", "8", ""},
		{"stages.8.phases.lora-cond.lr=1e-3", "8/lora-uncond", "stages.8.phases.lora-cond.lr"},
		{"stages.8.phases.lora-cond.lr=1e-3", "4", "stages.8.phases.lora-cond.lr"},
		{"stages.32.guidance=5", "8", "stages.32.guidance: 6 → 5"},
		{"seed=2", "8", "seed: 1 → 2"},
		{"train.batch=64", "8", "train.batch"},
		{"train.compute=f32", "1", "train.compute"},
		{"data.resolution=512", "8", "data.resolution"},
		// The first stage has no discriminator.
		{"discriminator.carry_backbone=false", "8", ""},
		{"discriminator.carry_backbone=false", "8/lora-uncond", ""}, // the first of its stage begins anew anyway
		{"discriminator.carry_backbone=false", "8/merge", "stage 8, phase lora-uncond: discriminator's backbone: carried → fresh"},
		{"discriminator.collapse_loss=0.5", "1", ""},
		{"lineage=continued", "8/full-uncond", ""}, // no merge comes before it,
		{"lineage=continued", "4", "stages.8.phases"},
		{"lora.alpha=64", "8", "lora.alpha"},
		{"stages.1.noise_levels=[500]", "1/full-cond", ""},
		{"stages.1.noise_levels=[500]", "1/full-uncond", "stages.1.noise_levels"},
		{"stages.2.skip_teacher_steps=0", "2/lora-uncond", ""},
		{"stages.2.skip_teacher_steps=0", "2/merge", "skip_teacher"},
		{"stages.2.timesteps=[500,1000]", "2/lora-uncond", "stages.2.timesteps"},
		{"lineage=continued", "8/full-uncond", ""},
		{"lineage=continued", "4", "full-uncond"},
		// What is saved, shown or measured, and what things are called.
		{"name=other", "1", ""},
		{"model=elsewhere", "1", ""},
		{"data.source=elsewhere", "1", ""},
		{"eval.samples=16", "1", ""},
		{"train.checkpoint_minutes=1", "1", ""},
		{"train.offload=optimizer", "1", ""},
		{"train.shard=sharded", "1", ""},
	} {
		a, b := base(), base()
		if err := b.Set(c.set); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(c.set, "skip_teacher_steps=0") { // the later phases cannot use it then
			if err := b.Set("stages.2.phases.full-uncond.teacher=stage"); err != nil {
				t.Fatal(err)
			}
			if c.from == "2/lora-uncond" {
				if err := b.Set("stages.2.phases.lora-uncond.teacher=stage"); err != nil {
					t.Fatal(err)
				}
			} else {
				a.Stages[3].Phases[1].Teacher, b.Stages[3].Phases[1].Teacher = configs.TeacherStage, configs.TeacherStage
				a.Stages[3].Phases[1].Teacher = configs.TeacherSkip
			}
		}
		l, err := NewLadder(b, Epsilon)
		if err != nil {
			t.Fatal(err)
		}
		steps, err := l.Before(c.from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DiffBefore(a, b, len(steps))
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(got, "\n"); c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s from %s: %q, want %q", c.set, c.from, text, c.want)
		}
	}
	// What two recipes share ends where the first phase depends on what differs, and before the last one.
	for set, want := range map[string]string{
		"stages.8.phases.lora-uncond.lr=1e-3": "8/lora-uncond", "stages.1.phases.full-uncond.noise_weights=[1,1,1,1]": "1/full-uncond",
		"stages.8.timesteps=[500]": "8/lora-cond", "name=other": "1/full-uncond", "seed=2": "32/mse-lora",
	} {
		a, b := base(), base()
		if err := b.Set(set); err != nil {
			t.Fatal(err)
		}
		n, err := Shared(a, b)
		if err != nil {
			t.Fatal(err)
		}
		steps, err := Plan(b, Epsilon)
		if err != nil || steps[n].Path() != want {
			t.Errorf("%s: from %s, want %s (%v)", set, steps[n].Path(), want, err)
		}
	}
	// Where a full lineage continues there are no merges, and the phases behind them count all the same.
	x, y := base(), base()
	for _, c := range []*configs.Recipe{x, y} {
		if err := c.Set("lineage=continued"); err != nil {
			t.Fatal(err)
		}
	}
	if err := y.Set("stages.8.phases.full-uncond.lr=1e-3"); err != nil {
		t.Fatal(err)
	}
	l, err := NewLadder(y, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := l.Before("4")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DiffBefore(x, y, len(steps)); err != nil || !strings.Contains(strings.Join(got, ""), "stages.8.phases.full-uncond.lr") {
		t.Errorf("%v, %v", got, err)
	}
	// A recipe without the last stages agrees with the whole one in the first.
	a, b := base(), base()
	a.Stages = a.Stages[:2]
	if got, err := DiffBefore(a, b, 3+4); err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := DiffBefore(a, b, 3+4+1); err != nil || !strings.Contains(strings.Join(got, ""), "stages: [32, 8] → [32, 8, 4]") {
		t.Errorf("%v, %v", got, err)
	}
}
