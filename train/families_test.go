package train_test

import (
	"path/filepath"
	"testing"

	"fewstep/internal/xla"
	"fewstep/model/weights"
	"fewstep/train/tinypipeline"
)

// Stable Diffusion 1, which predicts the noise, and 2, which predicts v, walk the ladder: both of its losses, both forms of
// the discriminator, LoRA and full. Every phase has made another student, whose weights are finite.
func TestStableDiffusionWalksTheLadder(t *testing.T) {
	if testing.Short() {
		t.Skip("walks two ladders")
	}
	const stages = `
  - {name: "4", like: "32", teacher_steps: 32, student_steps: 4, guidance: 2, phases: [{name: mse-lora, samples: 4, lr: 1e-3}]}
  - {name: "2", teacher_steps: 4, student_steps: 2, skip_teacher_steps: 4, phases: [{name: lora-cond, samples: 4, lr: 1e-3}, {name: lora-uncond, samples: 4, lr: 1e-3}, {name: merge}, {name: full-uncond, samples: 4, lr: 1e-3}]}
  - {name: "1", skip_teacher_steps: 2, phases: [{name: x0, samples: 4, lr: 1e-3}, {name: full-cond, samples: 4, lr: 1e-3}]}
`
	for version, name := range map[int]string{1: "version 1", 2: "version 2"} {
		t.Run(name, func(t *testing.T) {
			recipe, err := tinypipeline.WriteSD(t.TempDir(), filepath.Join("..", "model", "clip", "testdata"), version)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			walk(t, xla.Go, with(t, recipe, stages), dir, "", xla.Options{}, nil)
			students := map[string]string{} // by digest, their phases
			for name, digest := range made(t, dir) {
				if filepath.Base(name) != "student.safetensors" {
					continue
				}
				if other, twice := students[digest]; twice {
					t.Errorf("%s is %s", name, other)
				}
				students[digest] = name
				f, err := weights.Open(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				for _, tensor := range f.Names() {
					x, err := f.Tensor(tensor)
					if err == nil {
						_, err = x.Finite()
					}
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				f.Close()
			}
			if len(students) != 7 {
				t.Errorf("students of %d phases", len(students))
			}
		})
	}
}
