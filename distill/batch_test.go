package distill

import (
	"fewstep/configs"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
)

// Every phase of the paper's ladder, run with the analytic network: batches
// give each sample what the formulas give it alone.
func TestBatchIsTheFormulas(t *testing.T) {
	m, s, c := loadMethod(t), SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if step.Kind == configs.KindMerge {
			continue
		}
		p, err := NewSampler(s, c, step)
		if err != nil {
			t.Fatal(err)
		}
		const n = 24
		b, err := p.Batch(step.First, n)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Teacher) > p.Calls() {
			t.Errorf("%s/%s: %d calls, at most %d announced", step.StageName, step.PhaseName, len(b.Teacher), p.Calls())
		}
		for i := range n {
			what := fmt.Sprintf("%s/%s sample %d at t = %d: ", step.StageName, step.PhaseName, i, b.T[i])
			if !slices.Contains(p.Timesteps(), b.T[i]) || b.TNext[i] != StudentNext(s, step.StudentSteps, b.T[i]) {
				t.Fatalf("%st' = %d", what, b.TNext[i])
			}
			x := Combine(b.InputA[i], m.X0, b.InputB[i], m.Eps)
			nearAll(t, what+"x_t", x, s.Forward(m.X0, m.Eps, b.T[i]))
			u := net(x, s.NetworkIndex(b.T[i]), m.C)
			fake := Combine(b.StudentA[i], x, b.StudentB[i], u)
			if step.Kind == configs.KindX0 {
				nearAll(t, what+"student", fake, u)
				nearAll(t, what+"target", Combine(b.TargetA[i], x, b.TargetB[i], u), s.X0FromEpsilon(x, u, b.T[i]))
				if len(b.Teacher) > 0 {
					t.Errorf("%sthe conversion calls a teacher", what)
				}
				continue
			}
			nearAll(t, what+"student", fake, s.Move(step.Prediction, x, u, b.T[i], b.TNext[i]))
			real, alone := x, x
			for _, call := range b.Teacher {
				real = Combine(call.A[i], real, call.B[i], net(real, s.NetworkIndex(call.At[i]), m.C))
			}
			walk := TeacherWalk(s, b.T[i], b.TNext[i], step.TeacherSteps)
			for k := range walk[1:] {
				alone = s.Move(Epsilon, alone, net(alone, s.NetworkIndex(walk[k]), m.C), walk[k], walk[k+1])
			}
			nearAll(t, what+"teacher", real, alone)
			if step.StageName == "1" {
				if !slices.Contains([]int{10, 250, 500, 750}, b.ViewT[i]) || b.TNext[i] != 0 {
					t.Errorf("%sdiscriminator at %d", what, b.ViewT[i])
				}
				nearAll(t, what+"view", Combine(b.ViewA[i], real, b.ViewB[i], m.Eps), s.Forward(real, m.Eps, b.ViewT[i]))
			} else if b.ViewT[i] != b.TNext[i] || b.ViewA[i] != 1 || b.ViewB[i] != 0 {
				t.Errorf("%sdiscriminator at %d sees (%g, %g)", what, b.ViewT[i], b.ViewA[i], b.ViewB[i])
			}
		}
	}
}

// A sample is the same in any batch, and other samples are not.
func TestBatchBoundariesDoNotMatter(t *testing.T) {
	s, c := SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewSampler(s, c, steps[len(steps)-1])
	if err != nil {
		t.Fatal(err)
	}
	whole, err := p.Batch(1000, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		one, err := p.Batch(1000+int64(i), 1)
		if err != nil {
			t.Fatal(err)
		}
		if one.T[0] != whole.T[i] || one.ViewT[0] != whole.ViewT[i] || one.StudentA[0] != whole.StudentA[i] {
			t.Errorf("sample %d depends on its batch", i)
		}
	}
	if other, err := p.Batch(2000, 64); err != nil || reflect.DeepEqual(other.T, whole.T) {
		t.Error("other samples have the same timesteps", err)
	}
}

// t is uniform over the student's timesteps.
func TestTimestepsAreUniform(t *testing.T) {
	s, c := SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	for _, step := range []Step{steps[3], steps[11]} {
		p, err := NewSampler(s, c, step)
		if err != nil {
			t.Fatal(err)
		}
		b, err := p.Batch(0, n)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[int]float64{}
		for _, at := range b.T {
			counts[at]++
		}
		share := 1 / float64(len(p.Timesteps()))
		for _, at := range p.Timesteps() {
			if math.Abs(counts[at]/n-share) > 5*math.Sqrt(share*(1-share)/n) {
				t.Errorf("stage %s: t = %d in %g of %d samples", step.StageName, at, counts[at], n)
			}
		}
	}
}

func TestSamplerRefuses(t *testing.T) {
	s, c := SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSampler(s, c, steps[1]); err == nil {
		t.Error("a merge draws batches")
	}
	last := steps[len(steps)-1]
	c.Stages[last.Stage].NoiseLevels[0] = 1001
	if _, err := NewSampler(s, c, last); err == nil {
		t.Error("a noise level beyond T was accepted")
	}
	c.Stages[0].Timesteps = []int{2000}
	if _, err := NewSampler(s, c, steps[0]); err == nil {
		t.Error("a timestep beyond T was accepted")
	}
}
