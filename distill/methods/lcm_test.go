package methods_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/method/lcm"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
	"fewstep/model/process"

	"github.com/gomlx/compute/dtypes"
)

// consistency are values of NumPy's: see method/lcm/testdata/make_lcm.py.
type consistency struct {
	X0, Eps []float64
	C       float64
	Rows    []struct {
		Prediction               string
		Steps, T                 int
		TNext                    int `json:"t_next"`
		Guidance                 float64
		XT                       []float64 `json:"x_t"`
		Teacher, Student, Target []float64
		Huber, Square            float64
	}
}

// lcmStep is a phase of consistency distillation with a teacher of so many steps and its sampler.
func lcmStep(t *testing.T, steps int, pred distill.Prediction, guidance, to float64) (*configs.Recipe, *distill.Sampler, distill.Step) {
	t.Helper()
	c := configs.Default()
	c.Stages = []configs.Stage{{Name: "4", Loss: configs.LossMSE, TeacherSteps: steps, StudentSteps: 4, Guidance: guidance,
		Phases: []configs.Phase{{Name: "p", Kind: configs.KindLCM, Target: configs.TargetFull, Samples: 1, GuidanceTo: to}}}}
	plan, err := distill.Plan(c, pred)
	if err != nil {
		t.Fatal(err)
	}
	s, err := distill.NewSampler(distill.SDXLSchedule(), c, plan[0])
	if err != nil {
		t.Fatal(err)
	}
	return c, s, plan[0]
}

// A micro-batch's coefficients, applied to the analytic network, and the loss on the engine give NumPy's values.
func TestConsistencyIsNumPys(t *testing.T) {
	var m consistency
	raw, err := os.ReadFile("../method/lcm/testdata/lcm.json")
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil || len(m.Rows) < 20 {
		t.Fatal(len(m.Rows), err)
	}
	w := methodWorld(t)
	seen := 0
	for _, row := range m.Rows {
		pred, err := process.ParsePrediction(row.Prediction)
		if err != nil {
			t.Fatal(err)
		}
		_, s, step := lcmStep(t, row.Steps, pred, row.Guidance, 0)
		b, err := s.Batch(step.First, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := (lcm.Method{}).Draw(s, b, step.First); err != nil {
			t.Fatal(err)
		}
		i := slices.Index(b.T, row.T)
		if i < 0 || b.TNext[i] != row.TNext || len(b.Teacher) != 1 {
			t.Fatalf("%d steps: t = %d is drawn at %d, to %d, by %d calls", row.Steps, row.T, i, b.TNext[max(i, 0)], len(b.Teacher))
		}
		seen++
		schedule := s.Schedule
		x := combine(b.InputA[i], m.X0, b.InputB[i], m.Eps)
		nearAll(t, "x_t", x, row.XT)
		call := b.Teacher[0]
		u, empty := net(x, schedule.NetworkIndex(call.At[i]), m.C), net(x, schedule.NetworkIndex(call.At[i]), 0)
		g := 1.0
		if b.Guidance != nil {
			g = b.Guidance[i]
		}
		teacher := combine(call.A[i], x, call.B[i], combine(1-g, empty, g, u))
		nearAll(t, "teacher", teacher, row.Teacher)
		own := combine(0.9, u, 0, u)
		student := combine(b.StudentA[i], x, b.StudentB[i], own)
		nearAll(t, "student", student, row.Student)
		at, ta, tb := column(t, b, "target t").At[i], column(t, b, "target a").Values[i], column(t, b, "target b").Values[i]
		v := net(teacher, schedule.NetworkIndex(at), m.C)
		target := combine(ta, teacher, tb, combine(0.95, v, 0, v))
		nearAll(t, "target", target, row.Target)

		n, unused := len(x), w.vector(0)
		for c, want := range map[float64]float64{0.001: row.Huber, 0: row.Square} {
			plain := lcm.Loss(w.f, c)
			loss := engine.Function{Key: "stub/" + plain.Key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
				return plain.Body(stub{Runner: r, prediction: in[8]}, in[:8])
			}}
			got := w.call(loss, w.upload(single(x), 1, n), unused, unused, unused, unused, w.vector(float32(b.StudentA[i])), w.vector(float32(b.StudentB[i])),
				w.upload(single(row.Target), 1, n), w.upload(single(own), 1, n))
			if math.Abs(float64(got[0])-want) > 2e-4*max(want, 1e-3) {
				t.Errorf("t = %d, guidance %g, c = %g: loss %g, want %g", row.T, row.Guidance, c, got[0], want)
			}
		}
	}
	if seen != len(m.Rows) {
		t.Errorf("%d rows of %d", seen, len(m.Rows))
	}
}

// A consistency model stays one when its LoRA is merged, and whatever kind of phase comes after makes another.
func TestConsistencyModelsSampler(t *testing.T) {
	c := configs.Default()
	phase := func(name, kind, target string) configs.Phase {
		return configs.Phase{Name: name, Kind: kind, Target: target, Samples: 1}
	}
	c.Stages = []configs.Stage{{Name: "4", Loss: configs.LossMSE, TeacherSteps: 50, StudentSteps: 4, Phases: []configs.Phase{
		phase("lora", configs.KindLCM, configs.TargetLoRA), phase("merge", configs.KindMerge, ""), phase("full", configs.KindLCM, configs.TargetFull),
		phase("mse", configs.KindMSE, configs.TargetFull)}}}
	steps, err := distill.Plan(c, distill.Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range steps {
		want, original := "lcm", 50
		if i == 3 {
			want, original = "", 0
		}
		if s.Sampler != want || s.Original != original {
			t.Errorf("%s: sampler %q from %d", s.Path(), s.Sampler, s.Original)
		}
	}
}

// The loss's gradient is that of finite differences, in both forms.
func TestConsistencyGradient(t *testing.T) {
	for _, c := range []float64{0.5, 0} {
		w := newWorld(t, engine.New(runtime.Backend, dtypes.Float32, nn.Network), "mse", nil, discriminator.Conditional, false)
		if slope, norm := w.rises(2e-3, program.NetDenoiser, lcm.Loss(w.f, c), w.inputs("mse")...); !(norm > 0) || math.Abs(slope-norm) > 0.01*norm {
			t.Errorf("c = %g: the loss rises by %g along its gradient, whose norm is %g", c, slope, norm)
		}
	}
}

// Guidance is drawn uniformly from its range, the same for a sample in whatever batch it comes.
func TestConsistencyGuidanceIsDrawn(t *testing.T) {
	_, s, step := lcmStep(t, 50, distill.Epsilon, 3, 13)
	draw := func(first int64, n int) []float64 {
		t.Helper()
		b, err := s.Batch(first, n)
		if err == nil {
			err = (lcm.Method{}).Draw(s, b, first)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Guidance
	}
	all := draw(step.First, 4000)
	mean, low, high := 0.0, math.Inf(1), 0.0
	for _, g := range all {
		mean, low, high = mean+g/float64(len(all)), min(low, g), max(high, g)
	}
	if math.Abs(mean-8) > 0.3 || low < 3 || low > 3.1 || high > 13 || high < 12.9 {
		t.Errorf("guidance from %g to %g, %g on average", low, high, mean)
	}
	if one := draw(step.First+7, 1); one[0] != all[7] {
		t.Error("a sample's guidance depends on its batch")
	}
}
