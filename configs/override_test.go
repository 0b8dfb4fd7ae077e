package configs

import (
	"slices"
	"strings"
	"testing"
)

func TestOverrides(t *testing.T) {
	c := mustParse(t, minimal)
	for _, o := range []string{
		"train.batch=8", "stages.8.phases.lora-cond.samples=320", "name=x=y", "eval.steps=[4, 2]", "eval.sheet_prompts=[a cat, 'a, b']",
		"stages.1.noise_levels=[10, 20, 30, 40]", "stages.2.guidance=1.5", "data.captions={fine: 0.5, kind: 0.5}", "stages.*.phases.*.gate=0.6",
		"stages.*.phases.lora-uncond.lr=3e-5",
	} {
		if err := c.Set(o); err != nil {
			t.Error(err)
		}
	}
	if c.Train.Batch != 8 || c.Stage("8").Phase("lora-cond").Samples != 320 || c.Name != "x=y" || !slices.Equal(c.Eval.Steps, []int{4, 2}) ||
		!slices.Equal(c.Eval.SheetPrompts, []string{"a cat", "a, b"}) || !slices.Equal(c.Stage("1").NoiseLevels, []int{10, 20, 30, 40}) ||
		c.Stage("2").Guidance != 1.5 || c.Data.Captions != (Captions{Fine: 0.5, Kind: 0.5}) {
		t.Errorf("%s", c.Resolved())
	}
	for _, s := range c.Stages {
		for _, p := range s.Phases {
			if want := 0.6; p.Kind == KindMerge && p.Gate != 0 || p.Kind != KindMerge && p.Gate != want {
				t.Errorf("%s/%s: gate %g", s.Name, p.Name, p.Gate)
			}
			if p.Name == "lora-uncond" && p.LR != 3e-5 {
				t.Errorf("%s/%s: rate %g", s.Name, p.Name, p.LR)
			}
		}
	}
	for _, bad := range []struct{ override, want string }{
		{"train.batch", "write it as key=value"},
		{"=3", "write it as key=value"},
		{"train.batch=", "the value is missing"},
		{"train.batch={", "override"},
		{"train.batch=x", `override train.batch: "x" stands where a whole number is expected`},
		{"train.bacth=3", `override train.bacth: unknown key train.bacth; did you mean "batch"?`},
		{"train.batch.size=3", "train.batch has no keys below it"},
		{"stages.9.guidance=3", `there is no stage "9"`},
		{"stages.8.phases.lora-con.lr=3", `there is no phase "lora-con" in stage "8"; did you mean "lora-cond"?`},
		{"stages.8.phases.lora-cond.lrr=3", `unknown key stages.8.phases.lora-cond.lrr; did you mean "lr"?`},
		{"stages.8.phases.lora-cond=3", "keys with values are expected"},
		{"stages.8=3", "keys with values are expected"},
		{".=3", "unknown key"},
	} {
		if err := c.Set(bad.override); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: error %v, want %q", bad.override, err, bad.want)
		}
	}
	if _, err := Load("mini/demo.yaml", "train.batch=0"); err == nil || !strings.Contains(err.Error(), "demo.yaml: train.batch must be between 1 and") {
		t.Errorf("a bad override gives %v", err)
	}
	if _, err := Load("mini/none.yaml"); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a missing recipe gives %v", err)
	}
}
