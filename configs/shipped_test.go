package configs_test

import (
	"bytes"
	"fewstep/configs"
	"fewstep/distill"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestShippedRecipes(t *testing.T) {
	for _, file := range []string{"mini/demo.yaml", "scenes/full.yaml", "sdxl/lightning.yaml"} {
		c, err := configs.Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := c.CheckTimesteps(distill.SDXLSchedule().T()); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		text := c.Resolved()
		again, err := configs.Parse(text, "resolved.yaml")
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got := again.Resolved(); !bytes.Equal(got, text) {
			t.Errorf("%s: the canonical form changes when it is loaded:\n%s", file, got)
		}
		if d := configs.Diff(c, again); len(d) > 0 || c.Hash() != again.Hash() {
			t.Errorf("%s: %v", file, d)
		}
		ladder, err := distill.NewLadder(c, distill.Epsilon)
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
		command := fmt.Sprintf("#   fewstep run %s --dir ", "configs/"+file)
		for _, want := range []string{command, "# Takes: ", "# Expected: "} {
			if !strings.Contains(string(source), want) {
				t.Errorf("%s does not say %q", file, want)
			}
		}
	}
}

func TestPaperSettings(t *testing.T) {
	c, err := configs.Load("sdxl/lightning.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Train.GlobalBatch() != 512 || c.LoRA.Rank != 64 || c.LoRA.Scale() != 0.125 || c.Train.EMA != 0 || c.Train.ClipNorm != 0 {
		t.Errorf("train %+v, lora %+v", c.Train, c.LoRA)
	}
	if !reflect.DeepEqual(c.Stages, configs.Default().Stages) {
		t.Error("its stages are not the paper's")
	}
	for _, s := range c.Stages {
		for _, p := range s.Phases {
			want := [3]float64{1e-6, 0, 0.99}
			switch {
			case p.Kind == configs.KindMerge:
				continue
			case p.Kind != configs.KindAdversarial:
				want = [3]float64{1e-5, 0.9, 0.999}
			case p.Target == configs.TargetFull:
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

// Every row of the shipped ablation is a valid recipe of its own.
func TestAblationRecipes(t *testing.T) {
	files, err := filepath.Glob("ablation/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d recipes (%v)", len(files), err)
	}
	base, err := configs.Load("scenes/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, file := range append(files, "scenes/full.yaml") {
		c, err := configs.Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := distill.NewLadder(c, distill.Epsilon); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if c.Model != base.Model || c.Data.Source != base.Data.Source || c.Eval.Samples != base.Eval.Samples {
			t.Errorf("%s is of another model or protocol than full.yaml", file)
		}
		c.Name = ""
		resolved := c.Resolved()
		if other := seen[string(resolved)]; other != "" {
			t.Errorf("%s and %s are one recipe", file, other)
		}
		seen[string(resolved)] = file
	}
}
