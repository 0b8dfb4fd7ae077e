package methods_test

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"fewstep/distill"
	"fewstep/distill/method/adversarial"
	"fewstep/distill/method/mse"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// vectors are the parts of distill/testdata/method.json that are compared here.
type vectors struct {
	C     float64
	Steps struct {
		Rows []struct {
			Guidance  *float64
			T         int
			TNext     int       `json:"t_next"`
			TeacherTs []int     `json:"teacher_ts"`
			XT        []float64 `json:"x_t"`
			Teacher   []float64
			Student   []float64
			MSE       float64
		}
	} `json:"distillation_steps"`
	Losses []struct{ Real, Fake, Discriminator, Generator float64 }
}

func loadVectors(t *testing.T) *vectors {
	t.Helper()
	data, err := os.ReadFile("../testdata/method.json")
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
	if len(v.Steps.Rows) == 0 || len(v.Losses) == 0 {
		t.Fatal("method.json holds no steps or losses")
	}
	return v
}

// analytic is method.json's network, fed the index t − 1.
func analytic(x []float32, t int, c float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(0.6*math.Tanh(float64(v)) + 0.3*c*math.Cos(float64(t-1)/300) + 0.1)
	}
	return out
}

// stub answers for whole networks, so that what the functions do around them can be seen.
type stub struct {
	nn.Runner
	prediction, logits nn.Value // of the UNet, of the discriminator's head
}

func (s stub) Run(b nn.Block, in ...nn.Value) []nn.Value {
	switch {
	case strings.HasPrefix(b.Kind, "discriminator_head"):
		return []nn.Value{s.logits}
	case b.Name == program.NetDenoiser:
		return []nn.Value{s.prediction}
	case b.Name == program.NetDisc:
		return in[:1]
	}
	return s.Runner.Run(b, in...)
}

func single(v []float64) []float32 {
	out := make([]float32, len(v))
	for i := range v {
		out[i] = float32(v[i])
	}
	return out
}

func near(got float32, want float64) bool {
	return math.Abs(float64(got)-want) <= 2e-5*max(1, math.Abs(want))
}

// methodWorld runs without networks.
func methodWorld(t *testing.T) *world {
	c := tiny()
	return &world{t: t, e: engine.New(runtime.Backend, dtypes.Float32, nn.Network),
		f: &program.Functions{Denoiser: c, Disc: &discriminator.Config{Denoiser: c}}}
}

func (w *world) call(f engine.Function, in ...*engine.Array) []float32 {
	w.t.Helper()
	out, err := w.e.Call(f, nil, in...)
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := w.e.Floats(out[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// The teacher's guided steps (5), the student's one step, and the loss (16) between them.
func TestDistillationStepsOnTheEngine(t *testing.T) {
	v, w, s := loadVectors(t), methodWorld(t), distill.SDXLSchedule()
	move := func(x, u []float32, from, to int) []float32 {
		a, b := s.MoveCoefficients(distill.Epsilon, from, to)
		return w.call(program.Blend(), w.upload(x, 1, len(x)), w.vector(float32(a)), w.upload(u, 1, len(u)), w.vector(float32(b)))
	}
	plain := mse.Loss(w.f)
	mse := engine.Function{Key: "stub/" + plain.Key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return plain.Body(stub{Runner: r, prediction: in[8]}, in[:8])
	}}
	for _, row := range v.Steps.Rows {
		x := single(row.XT)
		n := len(x)
		for k := range len(row.TeacherTs) - 1 {
			from, to := row.TeacherTs[k], row.TeacherTs[k+1]
			u := analytic(x, from, v.C)
			if row.Guidance != nil {
				u = w.call(program.Guide(), w.upload(u, 1, n), w.upload(analytic(x, from, 0), 1, n), w.vector(float32(*row.Guidance)))
			}
			x = move(x, u, from, to)
		}
		u := analytic(single(row.XT), row.T, v.C)
		for i := range u {
			u[i] *= 0.9
		}
		student := move(single(row.XT), u, row.T, row.TNext)
		for i := range n {
			if !near(x[i], row.Teacher[i]) || !near(student[i], row.Student[i]) {
				t.Errorf("%d to %d: teacher %v, want %v; student %v, want %v", row.T, row.TNext, x, row.Teacher, student, row.Student)
				break
			}
		}
		a, b := s.MoveCoefficients(distill.Epsilon, row.T, row.TNext)
		start, unused := w.upload(single(row.XT), 1, n), w.vector(0)
		loss := w.call(mse, start, unused, unused, unused, unused, w.vector(float32(a)), w.vector(float32(b)),
			w.upload(single(row.Teacher), 1, n), w.upload(u, 1, n))
		if !near(loss[0], row.MSE) {
			t.Errorf("%d to %d: loss %g, want %g", row.T, row.TNext, loss[0], row.MSE)
		}
	}
}

// (20) and (21) by the engine's functions against the scalar ones, far ends included; both forms have one loss.
func TestAdversarialLossesOnTheEngine(t *testing.T) {
	v, w := loadVectors(t), methodWorld(t)
	type pair struct{ real, fake, lossD, lossG float64 }
	var pairs []pair
	for _, l := range v.Losses {
		pairs = append(pairs, pair{l.Real, l.Fake, l.Discriminator, l.Generator})
	}
	for _, l := range [][2]float64{{800, -800}, {-800, 800}, {0.5, 0.25}, {0.5, 0.5}} {
		pairs = append(pairs, pair{l[0], l[1], softplus(-l[0]) + softplus(l[1]), softplus(-l[1])})
	}
	for _, form := range []discriminator.Form{discriminator.Conditional, discriminator.Unconditional} {
		discFunction, genFunction := adversarial.Discriminator(w.f, adversarial.R1{}, form), adversarial.Generator(w.f, form)
		disc := engine.Function{Key: "stub/" + discFunction.Key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
			return discFunction.Body(stub{Runner: r, logits: in[11]}, in[:11])
		}}
		gen := engine.Function{Key: "stub/" + genFunction.Key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
			return genFunction.Body(stub{Runner: r, prediction: in[0], logits: in[11]}, in[:11])
		}}
		x, one := w.array(1, 1, 2, 2, 4), w.vector(1)
		for _, p := range pairs {
			out, err := w.e.Call(disc, nil, x, one, one, one, one, x, x, one, x, one, one, w.vector(float32(p.real), float32(p.fake)))
			if err != nil {
				t.Fatal(err)
			}
			right := 0.0
			if p.real > 0 {
				right += 0.5
			}
			if p.fake < 0 {
				right += 0.5
			}
			paired, gap := 0.5, p.real-p.fake
			if gap != 0 {
				paired = float64(map[bool]int{true: 1}[gap > 0])
			}
			var got []float32
			for _, a := range out {
				v, err := w.e.Floats(a)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, v...)
			}
			for i, want := range []float64{p.lossD, right, paired, gap, gap * gap} {
				if !near(got[i], want) {
					t.Errorf("%s, logits %g and %g: output %d is %g, want %g", form, p.real, p.fake, i, got[i], want)
				}
			}
			if got := w.call(gen, x, one, one, one, one, one, one, one, x, one, one, w.vector(float32(p.fake))); !near(got[0], p.lossG) {
				t.Errorf("%s, logit %g: generator's loss %g, want %g", form, p.fake, got[0], p.lossG)
			}
		}
	}
}

func softplus(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

// What all logits of a sample have in common hides the difference of a pair from the accuracy, not from the pairs.
func TestPairsSeeWhatSignsDoNot(t *testing.T) {
	w := methodWorld(t)
	f := adversarial.Discriminator(w.f, adversarial.R1{}, discriminator.Unconditional)
	of := engine.Function{Key: "pairs/" + f.Key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return f.Body(stub{Runner: r, logits: in[11]}, in[:11])[1:]
	}}
	x, one := w.array(1, 4, 2, 2, 4), w.vector(1, 1, 1, 1)
	got := w.call(of, x, one, one, one, one, x, x, one, x, one, one, w.vector(5.25, 7.5, -3, -6, 5, 7, -4, -6))
	for i, want := range []float64{adversarial.StatAccuracy: 0.5, adversarial.StatPaired: 0.875, adversarial.StatGap: 0.4375, adversarial.StatGapSquare: (0.25*0.25 + 0.25 + 1) / 4} {
		if !near(got[i], want) {
			t.Errorf("statistic %d is %g, want %g", i, got[i], want)
		}
	}
}

// What the discriminator is shown (3.7) and what each of its inputs becomes, by replacing the backbone.
func TestDiscriminatorSeesTheNoisedSample(t *testing.T) {
	w := methodWorld(t)
	plain := adversarial.Discriminator(w.f, adversarial.R1{}, discriminator.Unconditional)
	seen := engine.Function{Key: "seen/" + plain.Key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		var shown nn.Value
		plain.Body(watcher{Runner: r, shown: &shown, logits: in[11]}, in[:11])
		return []nn.Value{shown.(*graph.Node)}
	}}
	sample := func(v float32) *engine.Array { return w.upload([]float32{v, 2 * v}, 1, 1, 1, 2) }
	one := w.vector(1)
	got := w.call(seen, sample(9), one, one, one, one, sample(1), sample(10), one, sample(100), w.vector(0.5), w.vector(0.25), w.vector(1, 1))
	for i, want := range []float64{25.5, 51, 30, 60} { // 0.5·x + 0.25·noise, real before fake
		if !near(got[i], want) {
			t.Errorf("the backbone sees %v", got)
			break
		}
	}
}

// watcher keeps what the backbone is given.
type watcher struct {
	nn.Runner
	shown  *nn.Value
	logits nn.Value
}

func (s watcher) Run(b nn.Block, in ...nn.Value) []nn.Value {
	if b.Name == program.NetDisc && b.Compose != nil {
		*s.shown = in[0]
	}
	return stub{Runner: s.Runner, logits: s.logits}.Run(b, in...)
}
