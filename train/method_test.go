package train_test

import (
	"path/filepath"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/method/mse"
	"fewstep/distill/methods"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/pipeline"
	"fewstep/train/cost"
	"fewstep/train/monitor"
)

// halfway is a method of this test's: the student's step leads halfway between the teacher's sample and noise of its own.
type halfway struct{}

func (halfway) Draw(_ *distill.Sampler, b *distill.Batch, _ int64) error {
	half := make([]float64, len(b.T))
	for i := range half {
		half[i] = 0.5
	}
	b.Columns = []distill.Column{{Name: "half", Values: half}}
	b.Noises = []distill.NoiseColumn{{Name: "other", Purpose: distill.DiscriminatorNoise}}
	return nil
}

func (halfway) Update(s *method.Session) error {
	batches, err := s.Batches()
	if err != nil {
		return err
	}
	defer method.Release(batches)
	for i := range s.Micros() {
		b := batches[i]
		target, err := s.Engine.Call(program.Blend(), nil, b.Target, b.More["half"], b.More["other"], b.More["half"])
		if err != nil {
			return err
		}
		err = s.Train(method.Student, mse.Loss(s.Programs), i, []string{method.Loss}, b.At(b.X, b.T, b.A, b.B, target[0])...)
		engine.Free(target...)
		if err != nil {
			return err
		}
	}
	return nil
}

// A method that is nothing but its own code, an entry in the recipe's table and one in the list of methods is read, planned,
// compiled ahead, trained, saved and continued, on its own and in a ladder with others, whatever the granularity.
func TestMethodIsAFolder(t *testing.T) {
	configs.Methods = append(configs.Methods, configs.Method{Kind: "halfway", Defaults: configs.Phase{Beta1: 0.9, Beta2: 0.999}})
	methods.All["halfway"] = halfway{}
	defer func() {
		configs.Methods = configs.Methods[:len(configs.Methods)-1]
		delete(methods.All, "halfway")
	}()
	recipe := with(t, tiny(t), `
  - name: "16"
    loss: mse
    teacher_steps: 32
    student_steps: 16
    guidance: 2
    phases: [{name: half-lora, kind: halfway, target: lora, samples: 6, lr: 1e-3}, {name: merge, kind: merge}, {name: half-full, kind: halfway, samples: 6, lr: 1e-3}]
  - {name: "8", teacher_steps: 16, phases: [{name: full-uncond, samples: 4, lr: 1e-3}]}
`)
	for _, set := range [][]string{nil, append([]string{"train.batch=1", "train.accumulate=2"}, layered...)} {
		c, err := configs.Load(recipe, set...)
		if err != nil {
			t.Fatal(err)
		}
		rt, err := xla.Open(xla.Go, xla.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := pipeline.Open(c.ModelPath())
		if err != nil {
			t.Fatal(err)
		}
		phases, err := cost.Plan(rt.Backend, c, cost.Of(p), cost.Device{Split: true})
		if err != nil {
			t.Fatal(err)
		}
		if half := phases[0]; half.Kind != "halfway" || half.TeacherCalls != 4 || half.Memory.Step <= 0 || half.Model <= 0 {
			t.Errorf("planned %+v", half)
		}
		rt.Close()
		straight, broken := t.TempDir(), t.TempDir()
		walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil, set...)
		walk(t, xla.Go, recipe, broken, "8", xla.Options{}, []int{1, 3, 1}, set...)
		same(t, made(t, straight), made(t, broken))
		finite(t, straight)
	}
}

// consistent are phases of consistency distillation: adapters with a target network of their own and drawn guidance, every
// weight towards itself, and every weight with a target network.
const consistent = `
  - name: "8"
    loss: mse
    teacher_steps: 20
    student_steps: 4
    guidance: 2
    phases:
      - {name: lora, kind: lcm, target: lora, samples: 6, lr: 1e-3, guidance_to: 4, target_ema: 0.5}
      - {name: merge, kind: merge}
      - {name: self, kind: lcm, samples: 4, lr: 1e-3, target_ema: 0, huber: 0}
      - {name: full, kind: lcm, samples: 6, lr: 1e-3, target_ema: 0.5}
`

// Consistency distillation is planned, trained in every way, and continued to the same bytes; the target network matters
// from the second update on, and what is kept is the student, not its average.
func TestConsistencyDistillation(t *testing.T) {
	recipe := with(t, tiny(t), consistent)
	for _, set := range [][]string{nil, append([]string{"train.batch=1", "train.accumulate=2", "train.frozen=bf16", "train.compute=bf16"}, layered...)} {
		straight, broken := t.TempDir(), t.TempDir()
		walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil, set...)
		walk(t, xla.Go, recipe, broken, "8", xla.Options{}, []int{2, 3}, set...)
		same(t, made(t, straight), made(t, broken))
		finite(t, straight)
	}
	losses := func(set ...string) (out []float64) {
		t.Helper()
		dir := t.TempDir()
		walk(t, xla.Go, recipe, dir, "8", xla.Options{}, nil, set...)
		records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if v, ok := r.Values[monitor.Loss]; ok && r.Phase == "lora" {
				out = append(out, v)
			}
		}
		return out
	}
	slow, none := losses(), losses("stages.8.phases.lora.target_ema=0")
	if len(slow) != 3 || slow[0] != none[0] || slow[1] != slow[1] || slow[2] == none[2] {
		t.Errorf("losses with a target network %v, without %v", slow, none)
	}
}
