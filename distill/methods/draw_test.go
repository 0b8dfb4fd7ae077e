package methods_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/methods"
)

// net is the analytic network of distill/testdata/method.json, fed the index t − 1.
func net(x []float64, index int, c float64) []float64 {
	out := make([]float64, len(x))
	for i := range x {
		out[i] = 0.6*math.Tanh(x[i]) + 0.3*c*math.Cos(float64(index)/300) + 0.1
	}
	return out
}

func nearAll(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("%s has %d elements, want %d", what, len(got), len(want))
	}
	for i := range want {
		if math.IsNaN(got[i]) || math.Abs(got[i]-want[i]) > 1e-12*math.Max(1, math.Abs(want[i])) {
			t.Errorf("%s[%d] = %.17g, want %.17g", what, i, got[i], want[i])
		}
	}
}

// combine is a·x + b·u.
func combine(a float64, x []float64, b float64, u []float64) []float64 {
	out := make([]float64, len(x))
	for i := range out {
		out[i] = a*x[i] + b*u[i]
	}
	return out
}

// forward is (1) with the schedule fix, x0 is (3), and move is (5).
func forward(s *distill.Schedule, x, epsilon []float64, t int) []float64 {
	a, b := s.ForwardCoefficients(t)
	return combine(a, x, b, epsilon)
}

func x0(s *distill.Schedule, x, u []float64, t int) []float64 {
	a, b := s.X0Coefficients(distill.Epsilon, t)
	return combine(a, x, b, u)
}

func move(s *distill.Schedule, p distill.Prediction, x, u []float64, t, next int) []float64 {
	a, b := s.MoveCoefficients(p, t, next)
	return combine(a, x, b, u)
}

// column finds what a method adds by its name.
func column(t *testing.T, b *distill.Batch, name string) distill.Column {
	t.Helper()
	for _, c := range b.Columns {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no column %q", name)
	return distill.Column{}
}

// Every phase of the paper's ladder, run with the analytic network: batches
// give each sample what the formulas give it alone.
func TestBatchIsTheFormulas(t *testing.T) {
	var m struct {
		X0, Eps []float64
		C       float64
	}
	raw, err := os.ReadFile("../testdata/method.json")
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil || len(m.X0) == 0 {
		t.Fatal(err)
	}
	s, c := distill.SDXLSchedule(), configs.Default()
	steps, err := distill.Plan(c, distill.Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if !step.Trains() {
			continue
		}
		p, err := distill.NewSampler(s, c, step)
		if err != nil {
			t.Fatal(err)
		}
		const n = 24
		b, err := p.Batch(step.First, n)
		if err != nil {
			t.Fatal(err)
		}
		how, err := methods.Of(step.Kind)
		if err != nil {
			t.Fatal(err)
		}
		if err := how.Draw(p, b, step.First); err != nil {
			t.Fatal(err)
		}
		if len(b.Teacher) > p.Calls()+step.Method().Calls {
			t.Errorf("%s/%s: %d calls, at most %d announced", step.StageName, step.PhaseName, len(b.Teacher), p.Calls())
		}
		for i := range n {
			what := fmt.Sprintf("%s/%s sample %d at t = %d: ", step.StageName, step.PhaseName, i, b.T[i])
			if !slices.Contains(p.Timesteps(), b.T[i]) || b.TNext[i] != distill.StudentNext(s, step.StudentSteps, b.T[i]) {
				t.Fatalf("%st' = %d", what, b.TNext[i])
			}
			x := combine(b.InputA[i], m.X0, b.InputB[i], m.Eps)
			nearAll(t, what+"x_t", x, forward(s, m.X0, m.Eps, b.T[i]))
			u := net(x, s.NetworkIndex(b.T[i]), m.C)
			fake := combine(b.StudentA[i], x, b.StudentB[i], u)
			if step.Kind == configs.KindX0 {
				nearAll(t, what+"student", fake, u)
				call := b.Teacher[0]
				nearAll(t, what+"target", combine(call.A[i], x, call.B[i], net(x, s.NetworkIndex(call.At[i]), m.C)), x0(s, x, u, b.T[i]))
				if len(b.Teacher) != 1 {
					t.Errorf("%sthe conversion calls the frozen network %d times", what, len(b.Teacher))
				}
				continue
			}
			nearAll(t, what+"student", fake, move(s, step.Prediction, x, u, b.T[i], b.TNext[i]))
			real, alone := x, x
			for _, call := range b.Teacher {
				real = combine(call.A[i], real, call.B[i], net(real, s.NetworkIndex(call.At[i]), m.C))
			}
			walk := distill.TeacherWalk(s, b.T[i], b.TNext[i], step.TeacherSteps)
			for k := range walk[1:] {
				alone = move(s, distill.Epsilon, alone, net(alone, s.NetworkIndex(walk[k]), m.C), walk[k], walk[k+1])
			}
			nearAll(t, what+"teacher", real, alone)
			if !step.Method().Critic {
				continue
			}
			viewT, viewA, viewB := column(t, b, "view t").At[i], column(t, b, "view keep").Values[i], column(t, b, "view add").Values[i]
			if silent := b.Noises[0].Silent[i]; silent != (viewB == 0) || b.Noises[0].Purpose != distill.DiscriminatorNoise {
				t.Errorf("%snoise of weight %g is silent: %t", what, viewB, silent)
			}
			if step.StageName == "1" {
				if !slices.Contains([]int{10, 250, 500, 750}, viewT) || b.TNext[i] != 0 {
					t.Errorf("%sdiscriminator at %d", what, viewT)
				}
				nearAll(t, what+"view", combine(viewA, real, viewB, m.Eps), forward(s, real, m.Eps, viewT))
			} else if viewT != b.TNext[i] || viewA != 1 || viewB != 0 {
				t.Errorf("%sdiscriminator at %d sees (%g, %g)", what, viewT, viewA, viewB)
			}
		}
	}
}
