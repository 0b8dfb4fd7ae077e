package distill

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const minimal = "model: m\ndata: {source: s}\n"

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text), "recipe.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The recipes in configs load, validate, fit SDXL's schedule, and come back
// from their canonical form unchanged.
func TestShippedRecipes(t *testing.T) {
	for _, file := range []string{"../configs/mini/demo.yaml", "../configs/mini/full.yaml", "../configs/sdxl/lightning.yaml"} {
		c, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := c.CheckSchedule(SDXLSchedule()); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		text := c.Resolved()
		again, err := Parse(text, "resolved.yaml")
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got := again.Resolved(); !bytes.Equal(got, text) {
			t.Errorf("%s: the canonical form changes when it is loaded:\n%s", file, got)
		}
		if d := Diff(c, again); len(d) > 0 || c.Hash() != again.Hash() {
			t.Errorf("%s: %v", file, d)
		}
		ladder, err := NewLadder(c)
		if err != nil {
			t.Fatal(err)
		}
		var made []string
		for _, s := range ladder.Steps() {
			if s.Final {
				made = append(made, string(s.Produces))
			}
		}
		want := []string{"lora@32", "full@32", "lora@8", "full@8", "lora@4", "full@4", "lora@2", "full@2", "full@1"}
		if !slices.Equal(made, want) {
			t.Errorf("%s makes %v, want %v", file, made, want)
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		command := fmt.Sprintf("#   fewstep run %s --dir ", strings.TrimPrefix(file, "../"))
		for _, want := range []string{command, "# Takes: ", "# Expected: "} {
			if !strings.Contains(string(source), want) {
				t.Errorf("%s does not say %q", file, want)
			}
		}
	}
}

// The paper's recipe is the defaults: 512 samples an update, its rates, its Adam.
func TestPaperSettings(t *testing.T) {
	c, err := Load("../configs/sdxl/lightning.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Train.GlobalBatch() != 512 || c.LoRA.Rank != 64 || c.LoRA.Scale() != 0.125 || c.Train.EMA != 0 || c.Train.ClipNorm != 0 {
		t.Errorf("train %+v, lora %+v", c.Train, c.LoRA)
	}
	if !reflect.DeepEqual(c.Stages, Default().Stages) {
		t.Error("its stages are not the paper's")
	}
	for _, s := range c.Stages {
		for _, p := range s.Phases {
			want := [3]float64{1e-6, 0, 0.99}
			switch {
			case p.Kind == KindMerge:
				continue
			case p.Kind != KindAdversarial:
				want = [3]float64{1e-5, 0.9, 0.999}
			case p.Target == TargetFull:
				want[0] = 5e-7
			}
			if got := [3]float64{p.LR, p.Beta1, p.Beta2}; got != want || p.WeightDecay != 0 || p.Gate != 0 || p.WarmupDiscriminator != 0 || p.DiscriminatorRate(0, 1) != p.LR {
				t.Errorf("%s/%s: rate and betas %v, want %v", s.Name, p.Name, got, want)
			}
		}
		if (s.Guidance > 0) != (s.Name == "32") {
			t.Errorf("stage %s has guidance %g", s.Name, s.Guidance)
		}
	}
	if one := c.Stage("1"); !slices.Equal(one.NoiseLevels, []int{10, 250, 500, 750}) ||
		!slices.Equal(one.LevelWeights(one.Phase("full-cond")), []float64{1, 1, 1, 1}) ||
		!slices.Equal(one.LevelWeights(one.Phase("full-uncond")), []float64{5, 1, 1, 1}) {
		t.Errorf("noise levels of the last stage: %+v", one)
	}
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
		{"model: a\nmodel: b", "recipe.yaml:2: model: the key stands here a second time"},
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

// << merges a mapping into another, whose own keys count; of several that are merged the first counts.
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
		"train: {<<: 3}\n":                                 `recipe.yaml:3: train.<<: "3" stands where keys with values are expected`,
		"train: &t {batch: 4, <<: *t}\n":                   "recipe.yaml:3: train.<<: merges a mapping into itself",
		"train: &t {batch: 4, <<: [*t, *t, *t, *t, *t]}\n": "recipe.yaml:3: train.<<: merges a mapping into itself",
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
	if _, err := Load("../configs/mini/demo.yaml", "train.batch=0"); err == nil || !strings.Contains(err.Error(), "demo.yaml: train.batch must be between 1 and") {
		t.Errorf("a bad override gives %v", err)
	}
	if _, err := Load("../configs/mini/none.yaml"); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a missing recipe gives %v", err)
	}
}

// Every rule of Validate is broken once and answers with its key.
func TestValidateRules(t *testing.T) {
	if err := mustParse(t, minimal).Validate(); err != nil {
		t.Fatal(err)
	}
	for override, key := range map[string]string{
		"name=a b": "name", "model=''": "model", "data.source=''": "data.source", "data.resolution=60": "data.resolution", "data.max_bad=-1": "data.max_bad",
		"data.captions.kind=0.5": "data.captions", "train.batch=0": "train.batch", "train.accumulate=0": "train.accumulate", "train.compute=f16": "train.compute",
		"train.granularity=block": "train.granularity", "train.checkpoint_minutes=-1": "train.checkpoint_minutes", "train.checkpoint_samples=-1": "train.checkpoint_samples",
		"train.keep_checkpoints=1": "train.keep_checkpoints", "train.log_every=0": "train.log_every", "train.ema=1": "train.ema", "train.clip_norm=-1": "train.clip_norm",
		"train.adam_epsilon=0": "train.adam_epsilon", "lora.rank=0": "lora.rank", "lora.alpha=0": "lora.alpha", "discriminator.head_channels=-1": "discriminator.head_channels",
		"discriminator={head_channels: 40, head_groups: 32}": "discriminator.head_groups", "discriminator.gate_window=0": "discriminator.gate_window",
		"discriminator.collapse_window=-1": "discriminator.collapse_window", "discriminator.collapse_loss=-1": "discriminator.collapse_loss",
		"discriminator.collapse_accuracy=2": "discriminator.collapse_accuracy", "eval.samples=1": "eval.samples", "eval.batch=0": "eval.batch", "eval.guidance=-1": "eval.guidance",
		"eval.teacher_steps=0": "eval.teacher_steps", "eval.steps=[0]": "eval.steps", "eval.sheet_samples=-1": "eval.sheet_samples", "eval.bootstrap=-1": "eval.bootstrap", "eval.bootstrap=4": "eval.bootstrap", "eval.samples=3": "eval.samples",
		"eval.convention=fid": "eval.convention", "stages.8.name=a.b": "stages[1].name", "stages.8.loss=l2": "stages.8.loss", "stages.8.student_steps=0": "stages.8.student_steps",
		"stages.8.teacher_steps=12": "stages.8.teacher_steps", "stages.8.skip_teacher_steps=8": "stages.8.skip_teacher_steps", "stages.8.guidance=-1": "stages.8.guidance",
		"stages.8.timesteps=[0]": "stages.8.timesteps", "stages.8.timesteps=[5, 5]": "stages.8.timesteps", "stages.8.noise_levels=[0]": "stages.8.noise_levels",
		"stages.1.noise_weights=[1, 2]": "stages.1.noise_weights", "stages.1.noise_weights=[0, 0, 0, 0]": "stages.1.noise_weights",
		"stages.8.phases.merge.samples=5": "stages.8.phases.merge.samples", "stages.8.phases.lora-cond.kind=l2": "stages.8.phases.lora-cond.kind",
		"stages.8.phases.lora-cond.target=half": "stages.8.phases.lora-cond.target", "stages.8.phases.lora-cond.teacher=none": "stages.8.phases.lora-cond.teacher",
		"stages.8.phases.lora-cond.decay=cosine": "stages.8.phases.lora-cond.decay", "stages.8.phases.lora-cond.samples=0": "stages.8.phases.lora-cond.samples",
		"stages.8.phases.lora-cond.lr=0": "stages.8.phases.lora-cond.lr", "stages.8.phases.lora-cond.discriminator_lr=-1": "stages.8.phases.lora-cond.discriminator_lr",
		"stages.8.phases.lora-cond.beta1=1": "stages.8.phases.lora-cond.beta1", "stages.8.phases.lora-cond.beta2=-1": "stages.8.phases.lora-cond.beta2",
		"stages.8.phases.lora-cond.weight_decay=-1": "stages.8.phases.lora-cond.weight_decay", "stages.8.phases.lora-cond.gate=1.5": "stages.8.phases.lora-cond.gate",
		"stages.8.phases.lora-cond.warmup_discriminator=512000":                      "stages.8.phases.lora-cond.warmup_discriminator",
		"stages.8.phases.lora-cond.discriminator_weight_decay=-1":                    "stages.8.phases.lora-cond.discriminator_weight_decay",
		"stages.8.phases.lora-cond={count_student: true, warmup_discriminator: -1}":  "stages.8.phases.lora-cond.warmup_discriminator",
		"stages.8.phases.lora-cond={count_student: true, gate: 0.5}":                 "stages.8.phases.lora-cond.gate must be 0 with count_student",
		"stages.8.phases.lora-cond={warmup_accuracy: 2, warmup_discriminator: 4096}": "stages.8.phases.lora-cond.warmup_accuracy",
		"stages.8.phases.lora-cond.warmup_accuracy=0.6":                              "discriminator.gate_window 1024",
		"discriminator.features=all":                                                 "discriminator.features", "discriminator.r1=-1": "discriminator.r1", "discriminator.r1_sigma=0": "discriminator.r1_sigma",
		"stages.1.phases.x0.closed_form=-1": "stages.1.phases.x0.closed_form", "stages.8.phases.lora-cond.closed_form=64": "stages.8.phases.lora-cond.closed_form",
		"discriminator={carry_optimizer: true, carry_backbone: false}":                                             "discriminator.carry_optimizer",
		"stages.8.phases.lora-cond={count_student: true, warmup_discriminator: 9223372036854775807, samples: 512}": "longer than can be counted",
		"stages.8.phases.lora-cond.noise_weights=[1]":                                                              "stages.8.phases.lora-cond.noise_weights",
		"stages.8.phases.lora-cond.form=both":                                                                      "stages.8.phases.lora-cond.form",
		"stages.8.phases.lora-cond.samples=9e15":                                                                   "longer than can be counted",
	} {
		c := mustParse(t, minimal)
		if strings.HasSuffix(override, "9e15") {
			override = strings.Replace(override, "9e15", "9223372036854775807", 1)
		}
		if err := c.Set(override); err != nil {
			t.Error(err)
			continue
		}
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error %v does not name %s", override, err, key)
		}
	}
}

func TestCheckSchedule(t *testing.T) {
	s, err := NewSchedule(0.001, 0.02, 100)
	if err != nil {
		t.Fatal(err)
	}
	c := mustParse(t, minimal)
	err = c.CheckSchedule(s)
	for _, want := range []string{"stages.1 has the timestep 250", "stages.32 has a teacher of 128 steps"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	c.Eval.Steps = []int{200}
	if err := c.CheckSchedule(s); !strings.Contains(err.Error(), "eval.steps has 200 steps") {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	a, b := mustParse(t, minimal), mustParse(t, minimal)
	if d := Diff(a, b); len(d) != 0 {
		t.Fatal(d)
	}
	b.Train.Batch = 8
	b.Stages[1].Phases[0].Samples = 5
	b.Eval.SheetPrompts = []string{"a b", "c"}
	want := []string{"train.batch: 512 → 8", `eval.sheet_prompts: [] → ["a b" "c"]`, "stages.8.phases.lora-cond.samples: 512000 → 5"}
	if d := Diff(a, b); !slices.Equal(d, want) {
		t.Errorf("Diff = %q, want %q", d, want)
	}
	b = mustParse(t, minimal)
	b.Stages = b.Stages[1:]
	if d := Diff(a, b); !slices.Equal(d, []string{"stages: [32, 8, 4, 2, 1] → [8, 4, 2, 1]"}) {
		t.Error(d)
	}
}

// Every field is set to something else, one by one: the canonical form and the
// difference must show each, and each has a comment and a key in its place.
func TestEveryFieldIsRecorded(t *testing.T) {
	key := regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`)
	fields := 0
	var walk func(v reflect.Value, original func() *Config, path []int)
	base := mustParse(t, minimal)
	walk = func(v reflect.Value, original func() *Config, path []int) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if tag := f.Tag.Get("yaml"); !key.MatchString(tag) {
				t.Errorf("%s has the key %q", f.Name, tag)
			}
			fields++
			field := v.Field(i)
			before := reflect.New(field.Type()).Elem()
			before.Set(field)
			switch field.Kind() {
			case reflect.Struct:
				walk(field, original, append(path, i))
				continue
			case reflect.String:
				field.SetString(field.String() + "x")
			case reflect.Int, reflect.Int64:
				field.SetInt(field.Int() + 1)
			case reflect.Uint64:
				field.SetUint(math.MaxUint64)
			case reflect.Float64:
				field.SetFloat(field.Float() + 0.1234567890123456)
			case reflect.Bool:
				field.SetBool(!field.Bool())
			case reflect.Slice:
				switch field.Type().Elem().Kind() {
				case reflect.Int:
					field.Set(reflect.ValueOf([]int{77}))
				case reflect.Float64:
					field.Set(reflect.ValueOf([]float64{0.77}))
				case reflect.String:
					field.Set(reflect.ValueOf([]string{"- a: #b", ""}))
				default: // stages and phases
					walk(field.Index(0), original, nil)
					continue
				}
			default:
				t.Fatalf("%s is of a kind that recipes cannot hold", f.Name)
			}
			changed := original()
			if d := Diff(base, changed); len(d) == 0 {
				t.Errorf("Diff does not see %s", f.Name)
			}
			again, err := Parse(changed.Resolved(), "resolved.yaml")
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
			} else if !bytes.Equal(again.Resolved(), changed.Resolved()) {
				t.Errorf("%s does not survive the canonical form", f.Name)
			}
			field.Set(before)
		}
	}
	c := mustParse(t, minimal)
	walk(reflect.ValueOf(c).Elem(), func() *Config { return c }, nil)
	if fields < 60 {
		t.Errorf("only %d fields were seen", fields)
	}
	source, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(source), "\n") {
		if strings.Contains(line, "`yaml:") && !strings.Contains(line, "` ") {
			t.Errorf("a field has no comment: %s", strings.TrimSpace(line))
		}
	}
}

func TestLocate(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"configs/mini", "assets/mini", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	recipe := filepath.Join(root, "configs/mini/r.yaml")
	if err := os.WriteFile(recipe, []byte("model: assets/mini\ndata: {source: s3://bucket/x, captions: {fine: 1}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(root, "elsewhere"))
	c, err := Load(recipe)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.ModelPath(), filepath.Join(root, "assets/mini"); got != want {
		t.Errorf("from elsewhere: %s, want %s", got, want)
	}
	if c.Model != "assets/mini" {
		t.Errorf("the recipe's own text became %s", c.Model)
	}
	if got := c.SourcePath(); got != "s3://bucket/x" {
		t.Errorf("an address became %s", got)
	}
	if got := c.Locate("nowhere/to/be/found"); got != "nowhere/to/be/found" {
		t.Errorf("a missing path became %s", got)
	}
	t.Chdir(root)
	if got := c.ModelPath(); got != "assets/mini" {
		t.Errorf("in the repository: %s", got)
	}
	if got := c.Locate(root); got != root {
		t.Errorf("an absolute path became %s", got)
	}
}

func TestRates(t *testing.T) {
	p := Phase{LR: 2, Decay: DecayLinear}
	for _, c := range [][3]float64{{0, 100, 2}, {25, 100, 1.5}, {100, 100, 0}, {200, 100, 0}, {0, 0, 2}} {
		if got := p.StudentRate(int64(c[0]), int64(c[1])); got != c[2] {
			t.Errorf("after %g of %g: %g, want %g", c[0], c[1], got, c[2])
		}
	}
	p.DiscriminatorLR = 8
	if got := p.DiscriminatorRate(50, 100); got != 4 {
		t.Errorf("discriminator: %g", got)
	}
	p.Decay = DecayConstant
	if got := p.StudentRate(99, 100); got != 2 {
		t.Errorf("constant: %g", got)
	}
}

// Whatever the text: an error or a recipe that survives its canonical form.
func FuzzParse(f *testing.F) {
	for _, file := range []string{"../configs/mini/demo.yaml", "../configs/sdxl/lightning.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add(minimal + "stages: [{name: x, like: \"8\", phases: [merge, {name: a, kind: mse}]}]")
	f.Add("a: &x [*x]")
	f.Add("stages: &s {\"8\": *s}")
	f.Add("eval: {sheet_prompts: [\"\\u0085\", '\u2028', \"\\0\"]}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text), "recipe.yaml")
		if err != nil {
			return
		}
		if c.Validate() != nil {
			return
		}
		resolved := c.Resolved()
		again, err := Parse(resolved, "resolved.yaml")
		if err != nil {
			t.Fatalf("%v in\n%s", err, resolved)
		}
		if !bytes.Equal(again.Resolved(), resolved) {
			t.Fatalf("the canonical form changes:\n%s\n%s", resolved, again.Resolved())
		}
	})
}
