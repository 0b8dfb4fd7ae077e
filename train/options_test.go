package train_test

import (
	"math"
	"path/filepath"
	"testing"

	"fewstep/internal/xla"
	"fewstep/model/weights"
	"fewstep/train/monitor"
)

// options are an x0-conversion from a closed form and, of both forms, a penalised discriminator with heads on all levels.
const options = `
  - name: "1"
    teacher_steps: 2
    skip_teacher_steps: 4
    phases:
      - {name: x0, samples: 4, lr: 1e-5, closed_form: 7}
      - {name: full-cond, samples: 4, lr: 1e-3}
      - {name: full-uncond, samples: 4, lr: 1e-3, teacher: stage}
`

// A conversion that starts from the closed form begins at a smaller loss; penalties are recorded. An interrupted run
// ends with the same bytes, and block by block the losses are those of whole networks.
func TestOptions(t *testing.T) {
	recipe := with(t, tiny(t), options)
	first := func(dir string, phase, value string) float64 {
		t.Helper()
		records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if v, ok := r.Values[value]; ok && r.Phase == phase {
				return v
			}
		}
		t.Fatalf("%s: no %s of %s", dir, value, phase)
		return 0
	}
	plain := t.TempDir()
	walk(t, xla.Go, recipe, plain, "1", xla.Options{}, nil, "stages.1.phases.x0.closed_form=0")
	seen := map[string]float64{}
	for _, granularity := range []string{"network", "layer"} {
		set := []string{"train.granularity=" + granularity, "train.calls=" + granularity, "discriminator.r1=2", "discriminator.r1_sigma=0.1", "discriminator.features=levels"}
		straight, broken := t.TempDir(), t.TempDir()
		walk(t, xla.Go, recipe, straight, "1", xla.Options{}, nil, set...)
		walk(t, xla.Go, recipe, broken, "1", xla.Options{}, []int{1, 2, 1}, set...)
		same(t, made(t, straight), made(t, broken))
		finite(t, straight)
		for _, phase := range []string{"full-cond", "full-uncond"} {
			if first(straight, phase, monitor.R1) <= 0 {
				t.Errorf("%s, %s: no penalty", granularity, phase)
			}
			loss := first(straight, phase, monitor.LossD)
			if before, ok := seen[phase]; ok && math.Abs(loss-before) > 1e-3*before {
				t.Errorf("%s: the discriminator's loss begins at %g, and at %g block by block", phase, before, loss)
			}
			seen[phase] = loss
		}
		result, err := weights.Open(filepath.Join(straight, "stages", "1", "full-cond", "result", "discriminator.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"head.out.weight", "head.levels.0.out.weight", "head.levels.1.out.weight"} {
			if _, err := result.Tensor(name); err != nil {
				t.Error(err)
			}
		}
		result.Close()
		if trained, solved := first(plain, "x0", monitor.Loss), first(straight, "x0", monitor.Loss); solved > 0.7*trained {
			t.Errorf("%s: the loss begins at %g, without the closed form at %g", granularity, solved, trained)
		}
	}
}
