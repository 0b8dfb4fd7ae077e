package configs

import (
	"os"
	"path/filepath"
	"regexp"
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

// A variable that nothing reads is told, with the one that was meant; what other programs set is not.
func TestMisspelt(t *testing.T) {
	got := Misspelt([]string{"FEWSTEP_BACKEND=go", "FEWSTEP_TRAIN_BATCH=2", "FEWSTEP_BACKND=go", "FEWSTEP_TRAIN_BTACH=2", "FEWSTEP_WHATEVER_ELSE=1", "FEWSTEP_STAGES_8_GUIDANCE=1",
		"FEWSTEP_SERVICE_HOST=10.0.0.1", "FEWSTEP_PORT_80_TCP_ADDR=10.0.0.1", "FEWSTEP_TEST_SPAN=1", "FEWSTEP_SECRET=x", "HOME=/", "fewstep_backend=go"})
	want := []string{"FEWSTEP_BACKND names no setting and no key of a recipe, and nothing reads it; did you mean FEWSTEP_BACKEND?",
		"FEWSTEP_STAGES_8_GUIDANCE names no setting and no key of a recipe, and nothing reads it; keys of stages are changed by --set",
		"FEWSTEP_TRAIN_BTACH names no setting and no key of a recipe, and nothing reads it; did you mean FEWSTEP_TRAIN_BATCH?",
		"FEWSTEP_WHATEVER_ELSE names no setting and no key of a recipe, and nothing reads it"}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if got[i] != "the environment variable "+want[i] {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}

// Every variable that the repository's programs read is known.
func TestVariablesAreKnown(t *testing.T) {
	found := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || path == filepath.Join("..", "configs", "provenance_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`"(FEWSTEP_[A-Z0-9_]+)"`).FindAllStringSubmatch(string(source), -1) {
			found[m[1]] = true
		}
		return err
	})
	if err != nil || len(found) < 20 {
		t.Fatal(len(found), err)
	}
	for name := range found {
		if told := Misspelt([]string{name + "=1"}); len(told) > 0 {
			t.Error(told)
		}
	}
}
