package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every key of a recipe tells which layer gave it, and the later layer counts. Names of stages and phases keep their case.
func TestProvenance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	text := "name: x\nmodel: m\ndata: {source: s}\ntrain:\n  batch: 4\n  ema: 0.5\nstages:\n  - name: Eight\n    like: \"32\"\n    phases:\n      - {name: LoRA, kind: mse, target: lora, samples: 64, lr: 1e-3}\n"
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FEWSTEP_TRAIN_BATCH", "8")
	t.Setenv("FEWSTEP_TRAIN_CLIP_NORM", "2")
	t.Setenv("FEWSTEP_SEED", "7")
	c, err := Load(path, "train.clip_norm=3", "stages.*.phases.LoRA.lr=1e-4")
	if err != nil {
		t.Fatal(err)
	}
	if c.Train.Batch != 8 || c.Train.ClipNorm != 3 || c.Seed != 7 || c.Train.EMA != 0.5 || c.Stages[0].Phases[0].LR != 1e-4 {
		t.Errorf("%+v", c)
	}
	got := map[string]Provenance{}
	for _, p := range c.Provenance() {
		p.From = strings.Replace(p.From, path, "r.yaml", 1)
		got[p.Key] = p
	}
	for key, want := range map[string]string{
		"name": "r.yaml:1", "data.source": "r.yaml:3", "data.resolution": "default", "train.batch": "environment FEWSTEP_TRAIN_BATCH", "train.ema": "r.yaml:6",
		"train.clip_norm": "--set", "seed": "environment FEWSTEP_SEED", "stages": "r.yaml:8", "stages.Eight.student_steps": "default",
		"stages.Eight.phases.LoRA.samples": "r.yaml:11", "stages.Eight.phases.LoRA.lr": "--set", "stages.Eight.phases.LoRA.beta1": "default",
	} {
		if got[key].From != want {
			t.Errorf("%s is from %q, want %q", key, got[key].From, want)
		}
	}
	if p := got["train.batch"]; p.Value != "8" {
		t.Errorf("%+v", p)
	}
	t.Setenv("FEWSTEP_TRAIN_BATCH", "many")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), `environment FEWSTEP_TRAIN_BATCH: `) || !strings.Contains(err.Error(), `"many" stands where a whole number is expected`) {
		t.Errorf("%v", err)
	}
}
