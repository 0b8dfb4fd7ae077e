package train_test

import (
	"path/filepath"
	"testing"

	"fewstep/internal/xla"
	"fewstep/model/weights"
)

// A discriminator whose student stands still is the same after one phase as after two, where its optimizer is carried
// from one to the next. Across a change of form the carried tensors keep their moments and the fresh head has some.
func TestCarriedOptimizer(t *testing.T) {
	const settings = "like: lora-cond, samples: 4, lr: 1e-30, discriminator_lr: 1e-3}"
	recipe, set := tiny(t), "discriminator.carry_optimizer=true"
	one := with(t, recipe, `
  - {name: "8", teacher_steps: 16, phases: [{name: a, like: lora-cond, samples: 8, lr: 1e-30, discriminator_lr: 1e-3}]}
`)
	two := with(t, recipe, `
  - name: "8"
    teacher_steps: 16
    phases:
      - {name: a, `+settings+`
      - {name: b, `+settings+`
      - {name: c, form: unconditional, `+settings+`
`)
	whole, carried, broken, dropped := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	walk(t, xla.Go, one, whole, "8", xla.Options{}, nil)
	walk(t, xla.Go, two, carried, "8", xla.Options{}, nil, set)
	walk(t, xla.Go, two, broken, "8", xla.Options{}, []int{1, 2}, set)
	walk(t, xla.Go, two, dropped, "8", xla.Options{}, nil)
	same(t, made(t, carried), made(t, broken))
	const file = "/result/discriminator.safetensors"
	want := made(t, whole)["stages/8/a"+file]
	if made(t, carried)["stages/8/b"+file] != want {
		t.Error("two phases with the optimizer carried made another discriminator than one")
	}
	if made(t, dropped)["stages/8/b"+file] == want {
		t.Error("the optimizer's state makes no difference")
	}
	if made(t, carried)["stages/8/c"+file] == made(t, dropped)["stages/8/c"+file] {
		t.Error("nothing was carried into the unconditional phase")
	}
	const state = "result/discriminator.optimizer.safetensors"
	for phase, want := range map[string]bool{"a": true, "b": true, "c": false} {
		_, err := weights.Open(filepath.Join(carried, "stages", "8", phase, state))
		if (err == nil) != want {
			t.Errorf("%s: state kept %t (%v), want %t", phase, err == nil, err, want)
		}
	}
}
