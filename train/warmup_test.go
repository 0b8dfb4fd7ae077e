package train_test

import (
	"path/filepath"
	"testing"

	"fewstep/internal/xla"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// warmups are phases whose discriminator is warmed up on a still student: until it is accurate, in vain, and within the
// phase's samples; the last is gated.
const warmups = `
  - name: "8"
    teacher_steps: 16
    phases:
      - {name: early, like: lora-cond, samples: 6, lr: 1e-3, warmup_discriminator: 12, warmup_accuracy: 0.01, count_student: true}
      - {name: late, like: lora-cond, samples: 4, lr: 1e-3, warmup_discriminator: 6, warmup_accuracy: 1, count_student: true, discriminator_lr: 1e-9}
      - {name: within, like: lora-uncond, samples: 6, lr: 1e-3, warmup_discriminator: 4}
      - {name: gated, like: lora-uncond, samples: 4, lr: 1e-3, gate: 0.01}
`

// A warm-up ends by accuracy or by its samples, the student then has all of its own, and what moved is counted. An
// interrupted run comes to the same bytes.
func TestWarmup(t *testing.T) {
	recipe, straight, broken := with(t, tiny(t), warmups), t.TempDir(), t.TempDir()
	walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil)
	walk(t, xla.Go, recipe, broken, "8", xla.Options{}, []int{1, 2, 6})
	same(t, made(t, straight), made(t, broken))
	records, err := monitor.ReadStats(filepath.Join(straight, "stats.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	last, first := map[string]monitor.Record{}, map[string]int64{} // samples before the student first moved
	for _, r := range records {
		if r.Kind != monitor.KindStep {
			continue
		}
		last[r.Phase] = r
		if r.Values[monitor.StudentUpdates] == 0 {
			first[r.Phase] = r.Samples
		}
		for _, name := range []string{monitor.Accuracy, monitor.Paired, monitor.Gap, monitor.GapError, monitor.DiscriminatorUpdates} {
			if _, ok := r.Values[name]; !ok {
				t.Errorf("%s %d: no %s", r.Phase, r.Samples, name)
			}
		}
	}
	dir, err := rundir.View(straight)
	if err != nil {
		t.Fatal(err)
	}
	for phase, want := range map[string]struct{ still, total, student, critic int64 }{
		"early": {4, 18, 3, 5}, "late": {6, 10, 2, 5}, "within": {4, 6, 1, 3}, "gated": {2, 4, 1, 2},
	} {
		r := last[phase]
		student, critic := int64(r.Values[monitor.StudentUpdates]), int64(r.Values[monitor.DiscriminatorUpdates])
		if first[phase] != want.still || r.Samples != want.total || r.Total != want.total || student != want.student || critic != want.critic {
			t.Errorf("%s: the student was still for %d samples, then moved to %d of %d in %d updates of %d; want %+v", phase, first[phase], r.Samples, r.Total, student, critic, want)
		}
		result, err := dir.Result("8", phase)
		if err != nil {
			t.Fatal(err)
		}
		var s monitor.Summary
		if err := result.Meta(&s); err != nil || s.StudentUpdates != want.student || s.DiscriminatorUpdates != want.critic || s.Updates != want.critic {
			t.Errorf("%s: result says %+v (%v)", phase, s, err)
		}
	}
}
