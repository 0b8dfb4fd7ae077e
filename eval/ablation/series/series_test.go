package series

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
)

// Every run of the shipped list is a recipe that is there, and a row begins where it differs from the main recipe.
func TestShippedListBeginsWhereRowsDiffer(t *testing.T) {
	s, err := Read("../../../examples/ablation/scenes.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]string{
		"full-1": "32/mse-lora", "full-2": "32/mse-lora", "full-3": "32/mse-lora", "sdxl-settings-1": "32/mse-lora",
		"mse-only-1": "8/lora", "mse-only-2": "8/lora", "mse-only-3": "8/lora",
		"paired-gate-1": "8/lora-cond", "unconditional-1": "8/lora-cond", "equal-rates-1": "8/lora-cond",
		"conditional-1": "8/lora-uncond", "fresh-discriminator-1": "8/lora-uncond",
		"continued-1": "8/full-uncond", "no-full-1": "4/lora-cond", "own-grid-1": "2/lora-cond", "stage-teacher-1": "2/lora-uncond",
		"longer-1": "2/lora-cond", "epsilon-1": "1/full-cond", "no-levels-1": "1/full-cond", "equal-weights-1": "1/full-uncond",
		"no-closed-form-1": "1/x0", "low-levels-1": "1/full-cond", "carry-optimizer-1": "8/lora-cond", "faster-discriminator-1": "8/lora-cond", "r1-1": "8/lora-cond", "feature-levels-1": "8/lora-cond", "ema-1": "32/mse-lora", "lcm-1": "lcm/lora", "mse-same-rates-1": "8/lora",
	}
	for _, r := range s.Runs {
		if r.From != from[r.Name] {
			t.Errorf("%s begins at %s, want %q", r.Name, r.From, from[r.Name])
		}
		if (r.From == "32/mse-lora" || r.From == "lcm/lora") != (r.Parent == nil) || r.Parent != nil && (r.Parent.Seed != r.Seed || r.Parent.Recipe != s.Main) {
			t.Errorf("%s begins with %+v", r.Name, r.Parent)
		}
		delete(from, r.Name)
	}
	if len(from) > 0 {
		t.Errorf("not in the list: %v", from)
	}
	files, err := filepath.Glob("../../../configs/ablation/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		row := strings.TrimSuffix(filepath.Base(f), ".yaml")
		found := false
		for _, r := range s.Runs {
			found = found || strings.HasPrefix(r.Name, row+"-")
		}
		if !found {
			t.Errorf("no run of the row %s is in the list", row)
		}
	}
}

// Rows without adversarial phases train on as many samples as the main recipe, stage by stage, LoRA and full.
func TestMSEOnlyHasAsManySamples(t *testing.T) {
	for _, name := range []string{"scenes", "mini"} {
		s, err := Read("../../../examples/ablation/"+name+".yaml", nil)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]map[string]int64{} // by recipe, then stage and target
		for _, r := range s.Runs[:2] {
			steps, err := distill.Plan(r.Config, distill.Epsilon)
			if err != nil {
				t.Fatal(err)
			}
			of := map[string]int64{}
			for _, step := range steps {
				target := fmt.Sprint(step.StageName, " ", step.Target)
				if step.Kind == configs.KindX0 {
					target = "x0"
				}
				of[target] += r.Config.Stages[step.Stage].Phases[step.Phase].Samples
			}
			count[r.Config.Name] = of
		}
		main, mse := count[s.Runs[0].Config.Name], count["mse-only"]
		for target, n := range main {
			if mse[target] != n {
				t.Errorf("%s: %s: %d samples, and %d in the main recipe", name, target, mse[target], n)
			}
		}
		if len(main) < 8 {
			t.Errorf("%v", main)
		}
	}
}

func TestListsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	recipe := "name: a\nmodel: m\ndata: {source: d}\n"
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(recipe), 0o666); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                                     "must name the main recipe",
		"main: a.yaml\nruns: []":               "must name the main recipe",
		"main: a.yaml\nruns: [{recipe: main}]": "a seed of 1 or more",
		"main: a.yaml\nruns: [{seed: 1}]":      "a recipe, and a seed",
		"main: a.yaml\naccept: [eval.sample=1]\nruns: [{recipe: main, seed: 1}]": "eval.sample",
		"main: a.yaml\nrun: []":                                                        "field run not found",
		"main: b.yaml\nruns: [{recipe: main, seed: 1}]":                                "b.yaml",
		"main: a.yaml\nrows: .\nruns: [{recipe: x, seed: 1}]":                          "x.yaml",
		"main: a.yaml\nrows: .\nruns: [{recipe: main, seed: 1}, {recipe: a, seed: 1}]": "a-1 is there already",
	} {
		path := filepath.Join(dir, "list.yaml")
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
