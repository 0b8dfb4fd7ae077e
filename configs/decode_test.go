package configs

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Whatever the text: an error or a recipe that survives its canonical form.

const minimal = "model: m\ndata: {source: s}\n"

func mustParse(t *testing.T, text string) *Recipe {
	t.Helper()
	c, err := Parse([]byte(text), "recipe.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRecipeErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "recipe.yaml: the recipe is empty"},
		{"# nothing\n", "recipe.yaml: the recipe is empty"},
		{"- a", "recipe.yaml:1: recipe: a list stands where keys with values are expected"},
		{"modle: m", `recipe.yaml:1: modle: unknown key; did you mean "model"?`},
		{"train:\n  btach: 3", `recipe.yaml:2: train.btach: unknown key; did you mean "batch"?`},
		{"data: {captions: {fien: 1}}", `recipe.yaml:1: data.captions.fien: unknown key; did you mean "fine"?`},
		{"lora: {zzzzzz: 1}", `recipe.yaml:1: lora.zzzzzz: unknown key; known here: rank, alpha`},
		{"Model: m", `recipe.yaml:1: Model: unknown key; did you mean "model"?`},
		{"model: a\nmodel: b", `recipe.yaml:1: recipe: line 2: mapping key "model" already defined at line 1`},
		{"train: {batch: 1.5}", `recipe.yaml:1: train.batch: "1.5" stands where a whole number is expected`},
		{"train: {batch: many}", `recipe.yaml:1: train.batch: "many" stands where a whole number is expected`},
		{"train: {batch: [1]}", "recipe.yaml:1: train.batch: a list stands where a whole number is expected"},
		{"train: 3", `recipe.yaml:1: train: "3" stands where keys with values are expected`},
		{"train: {batch: }", "recipe.yaml:1: train.batch: nothing stands where a whole number is expected"},
		{"seed: -1", `recipe.yaml:1: seed: "-1" stands where a whole number of at least 0 is expected`},
		{"lora: {alpha: .nan}", `recipe.yaml:1: lora.alpha: ".nan" stands where a number is expected`},
		{"lora: {alpha: .inf}", `recipe.yaml:1: lora.alpha: ".inf" stands where a number is expected`},
		{"discriminator: {carry_backbone: yes}", `recipe.yaml:1: discriminator.carry_backbone: "yes" stands where true or false is expected`},
		{"eval: {steps: 8}", `recipe.yaml:1: eval.steps: "8" stands where a list is expected, such as [8, 4]`},
		{"eval: {steps: [8, a]}", `recipe.yaml:1: eval.steps[1]: "a" stands where a whole number is expected`},
		{"stages: lightening", `recipe.yaml:1: stages: "lightening" stands where the word lightning, a list of stages or stages by name are expected; did you mean "lightning"?`},
		{"stages:\n  \"88\": {guidance: 1}", `recipe.yaml:2: stages.88: there is no such stage to change; did you mean "8"?; write stages as a list`},
		{"stages:\n  \"8\":\n    phases:\n      lora-con: {samples: 1}", `recipe.yaml:4: stages.8.phases.lora-con: there is no such phase to change; did you mean "lora-cond"?`},
		{"stages:\n  \"8\": {phases: {lora-cond: {sampels: 1}}}", `recipe.yaml:2: stages.8.phases.lora-cond.sampels: unknown key; did you mean "samples"?`},
		{"stages:\n  - {name: \"8\", phases: [{name: lora-cond, sampels: 1}]}", `recipe.yaml:2: stages.8.phases.lora-cond.sampels: unknown key; did you mean "samples"?`},
		{"stages: [\"7\"]", `there is no such stage to start from; did you mean "8"?`},
		{"stages: [{guidance: 1}]", "the entry has no name"},
		{"stages: [[1]]", "a list stands where a name or keys with values are expected"},
		{"stages: [{name: x, like: nine}]", "there is no such stage to start from"},
		{"stages: {\"8\": {phases: lora-cond}}", `"lora-cond" stands where a list of phases or phases by name are expected`},
		{"a: &x [*x]", "recipe.yaml"},
		{"\tmodel: m", "recipe.yaml: yaml: "},
	} {
		_, err := Parse([]byte(c.text), "recipe.yaml")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
	}
	// All problems at once.
	_, err := Parse([]byte("modle: m\ntrain: {btach: 1, batch: x}"), "recipe.yaml")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three problems give: %v", err)
	}
}

func TestRecipeForms(t *testing.T) {
	c := mustParse(t, minimal+`
train: {checkpoint_samples: 1e6, batch: 1_6}
name: 7
stages:
  - {name: 8, phases: &eight [lora-cond, {name: more, like: lora-cond, samples: 5}, merge]}
  - {name: new, loss: mse, teacher_steps: 8, student_steps: 4, phases: [{name: p, kind: mse, samples: 16, lr: 1e-4}]}
  - {name: "4", phases: *eight}
`)
	if c.Train.CheckpointSamples != 1_000_000 || c.Train.Batch != 16 || c.Name != "7" {
		t.Errorf("numbers: %+v %q", c.Train, c.Name)
	}
	if got := stageNames(c.Stages); !slices.Equal(got, []string{"8", "new", "4"}) {
		t.Fatal(got)
	}
	eight := c.Stage("8")
	if eight.TeacherSteps != 32 || !slices.Equal(phaseNames(eight.Phases), []string{"lora-cond", "more", "merge"}) ||
		eight.Phase("more").Samples != 5 || eight.Phase("more").Form != FormConditional || eight.Phase("lora-cond").Samples != phaseSamples {
		t.Errorf("stage 8: %+v", eight)
	}
	if p := c.Stage("new").Phase("p"); p.Target != TargetFull || p.Decay != DecayConstant || p.Beta2 != 0.999 {
		t.Errorf("new phase: %+v", p)
	}
	if got := c.Stage("4").Phase("more").Samples; got != 5 {
		t.Errorf("aliased phases: %d samples", got)
	}
	if d := Default(); !reflect.DeepEqual(d.Stages, Lightning()) {
		t.Error("loading changed the defaults")
	}
}

func TestMerges(t *testing.T) {
	phase := func(t *testing.T, text, name string) Phase {
		t.Helper()
		c := mustParse(t, minimal+"stages:\n"+text)
		p := c.Stages[0].Phase(name)
		if p == nil {
			t.Fatalf("no phase %s", name)
		}
		return *p
	}
	if p := phase(t, "  \"32\":\n    phases:\n      mse-lora: &p {samples: 64, lr: 1e-3}\n      mse-full:\n        <<: *p\n        lr: 1e-4\n", "mse-full"); p.Samples != 64 || p.LR != 1e-4 {
		t.Errorf("%+v", p)
	}
	if p := phase(t, "  \"32\":\n    phases:\n      mse-lora: &p {lr: 1e-3, samples: 64}\n      mse-full: {lr: 1e-4, <<: [*p, {lr: 1, beta2: 0.5}]}\n", "mse-full"); p.Samples != 64 || p.LR != 1e-4 || p.Beta2 != 0.5 {
		t.Errorf("%+v", p)
	}
	// In lists of stages and phases too, also for the keys that say what an entry is.
	list := "  - {name: A, like: \"32\", phases: [&p {name: one, kind: mse, samples: 64, lr: 1e-3}, {<<: *p, name: Two, lr: 1e-4}]}\n"
	if p := phase(t, list, "Two"); p.Samples != 64 || p.LR != 1e-4 || p.Kind != KindMSE {
		t.Errorf("%+v", p)
	}
	for text, want := range map[string]string{
		"train: {<<: {batsh: 8}}\n":                        "recipe.yaml:3: train.batsh: unknown key; did you mean \"batch\"?",
		"train: {<<: 3}\n":                                 "recipe.yaml:3: train: map merge requires map or sequence of maps",
		"train: &t {batch: 4, <<: *t}\n":                   "recipe.yaml:3: train: anchor 't' value contains itself",
		"train: &t {batch: 4, <<: [*t, *t, *t, *t, *t]}\n": "recipe.yaml:3: train: anchor 't' value contains itself",
		"train: {batch: 4}\n---\nname: z\n":                "recipe.yaml: line 4: a second YAML document begins here",
		"train: {batch: 4}\n---\n":                         "recipe.yaml: line 4: a second YAML document begins here",
		"train: {batch: 4}\n...\n# only a comment\n":       "",
		"train: {\"<<\": {batch: 8}}\n":                    "recipe.yaml:3: train.<<: unknown key",
	} {
		_, err := Parse([]byte(minimal+text), "recipe.yaml")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
