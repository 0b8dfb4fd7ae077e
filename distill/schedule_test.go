package distill

import (
	"fewstep/configs"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestScheduleRefuses(t *testing.T) {
	for _, c := range []struct {
		start, end float64
		steps      int
	}{{0.1, 0.2, 1}, {0, 0.2, 10}, {0.2, 0.1, 10}, {0.1, 1, 10}, {math.NaN(), 0.1, 10}, {0.1, math.NaN(), 10}} {
		if _, err := NewSchedule(c.start, c.end, c.steps); err == nil {
			t.Errorf("NewSchedule(%v) was accepted", c)
		}
	}
}

func TestScheduleOutside(t *testing.T) {
	s := SDXLSchedule()
	for _, at := range []int{-1, 1001} {
		if !math.IsNaN(s.AlphaBar(at)) {
			t.Errorf("AlphaBar(%d) = %g, want NaN", at, s.AlphaBar(at))
		}
	}
	if s.Grid(0) != nil || s.Grid(1001) != nil || s.Euler(0) != nil {
		t.Error("an impossible grid was made")
	}
	if got := s.NetworkIndex(0); got != 0 {
		t.Errorf("NetworkIndex(0) = %d", got)
	}
}

// Every grid steps down from T, Next follows it, and a schedule that is not
// SDXL's behaves alike.
func TestGridEveryCount(t *testing.T) {
	small, err := NewSchedule(0.001, 0.02, 77)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Schedule{SDXLSchedule(), small} {
		for n := 1; n <= s.T(); n++ {
			walk := s.Euler(n)
			if len(walk) != n+1 || walk[0] != s.T() || walk[n] != 0 {
				t.Fatalf("T = %d: Euler(%d) = %v", s.T(), n, walk)
			}
			for i := range n {
				if walk[i+1] >= walk[i] || s.Next(n, walk[i]) != walk[i+1] {
					t.Fatalf("T = %d, n = %d: %d is followed by %d and %d", s.T(), n, walk[i], walk[i+1], s.Next(n, walk[i]))
				}
			}
		}
	}
}

func TestStudentTimesteps(t *testing.T) {
	s := SDXLSchedule()
	few := []int{1000, 750, 500, 250}
	for _, c := range []struct {
		n        int
		explicit []int
		want     []int
	}{{1, nil, few}, {2, nil, few}, {4, nil, few}, {8, nil, s.Grid(8)}, {2, []int{1000, 500}, []int{1000, 500}}} {
		got, err := StudentTimesteps(s, c.n, c.explicit)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("StudentTimesteps(%d, %v) = %v, %v; want %v", c.n, c.explicit, got, err, c.want)
		}
	}
	for _, c := range []struct {
		n        int
		explicit []int
	}{{0, nil}, {1001, nil}, {2, []int{0}}, {2, []int{1001}}} {
		if _, err := StudentTimesteps(s, c.n, c.explicit); err == nil {
			t.Errorf("StudentTimesteps(%d, %v) was accepted", c.n, c.explicit)
		}
	}
	for _, c := range [][3]int{{2, 750, 250}, {2, 250, 0}, {2, 600, 100}, {1, 750, 0}, {1, 1000, 0}} {
		if got := StudentNext(s, c[0], c[1]); got != c[2] {
			t.Errorf("StudentNext(%d, %d) = %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestParseScheduler(t *testing.T) {
	s, pred, err := ParseScheduler([]byte(`{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
		"beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "sample", "timestep_spacing": "trailing"}`))
	if err != nil || pred != Sample || s.AlphaBar(1000) != SDXLSchedule().AlphaBar(1000) {
		t.Errorf("got %v, %v, %v", s, pred, err)
	}
	for _, c := range [][2]string{
		{`{"beta_schedule": "linear"}`, "scaled_linear"},
		{`{"prediction_type": "flow_prediction"}`, "flow_prediction"},
		{`{"rescale_betas_zero_snr": true}`, "rescale_betas_zero_snr"},
		{`{"_class_name": "EDMEulerScheduler"}`, "EDM"},
		{`{"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", "timestep_type": "continuous", "sigma_max": 120.0}`, "EDM"},
		{`{"_class_name": "FlowMatchEulerDiscreteScheduler"}`, "flow matching"},
		{`{"_class_name": "EulerDiscreteScheduler", "use_flow_sigmas": true}`, "flow matching"},
		{`{"_class_name": "NewScheduler"}`, "NewScheduler"},
		{`{"trained_betas": [0.1, 0.2]}`, "trained_betas"},
		{`{"num_train_timesteps": -3}`, "timesteps"},
		{`{`, "scheduler config"},
	} {
		if _, _, err := ParseScheduler([]byte(c[0])); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: error %v does not speak of %s", c[0], err, c[1])
		}
	}
}

// A v-predicting network's output and an ε-predicting one's that mean the same lead to the same: at every timestep, on the
// plain schedule and on one of zero terminal SNR, where the picture is all of v.
func TestVelocity(t *testing.T) {
	plain, pred, err := ParseScheduler([]byte(`{"prediction_type": "v_prediction"}`))
	if err != nil || pred != Velocity || plain.ZeroSNR() {
		t.Fatal(pred, err)
	}
	zero, _, err := ParseScheduler([]byte(`{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true}`))
	if err != nil || !zero.ZeroSNR() || zero.WithZeroSNR(false).AlphaBar(1000) != plain.AlphaBar(1000) || zero.WithZeroSNR(true) != zero {
		t.Fatal(err)
	}
	if a, b := zero.AlphaBar(1), plain.AlphaBar(1); math.Abs(a-b) > 1e-12 || zero.AlphaBar(1000) != 1.0/(1<<24) || zero.AlphaBar(0) != 1 {
		t.Errorf("rescaled from %g at the start, %g before, to %g", a, b, zero.AlphaBar(1000))
	}
	const x0, e = 0.7, -1.3
	for _, s := range []*Schedule{plain, zero} {
		for _, at := range []int{1, 250, 999, 1000} {
			signal, noise := s.NoisyCoefficients(at)
			x, v := signal*x0+noise*e, signal*e-noise*x0
			for _, next := range []int{0, 1, 500, at} {
				a, b := s.MoveCoefficients(Velocity, at, next)
				ns, nn := s.NoisyCoefficients(next)
				if got, want := a*x+b*v, ns*x0+nn*e; math.Abs(got-want) > 1e-12 {
					t.Errorf("zero SNR %t: from %d to %d is %g, want %g", s.ZeroSNR(), at, next, got, want)
				}
			}
			if a, b := s.X0Coefficients(Velocity, at); math.Abs(a*x+b*v-x0) > 1e-12 {
				t.Errorf("x0 at %d is %g", at, a*x+b*v)
			}
			if a, b := s.EpsilonCoefficients(Velocity, at); math.Abs(a*x+b*v-e) > 1e-12 {
				t.Errorf("ε at %d is %g", at, a*x+b*v)
			}
		}
	}
}

// A ladder over a base that predicts v has teachers and students that do, until the conversion to x0.
func TestLadderOverVelocity(t *testing.T) {
	c, err := configs.Load("../configs/sdxl/lightning.yaml")
	if err != nil {
		t.Fatal(err)
	}
	steps, err := Plan(c, Velocity)
	if err != nil {
		t.Fatal(err)
	}
	converted := false
	for _, s := range steps {
		want := Velocity
		converted = converted || s.Kind == configs.KindX0
		if converted {
			want = Sample
		}
		if s.Prediction != want || s.Kind != configs.KindMerge && s.Teacher.Prediction != Velocity {
			t.Errorf("%s/%s predicts %v, its teacher %v", s.StageName, s.PhaseName, s.Prediction, s.Teacher.Prediction)
		}
	}
	if !converted {
		t.Error("the ladder has no conversion")
	}
}

// Gradients of the losses against central differences, far into both tails.
func TestLossGradients(t *testing.T) {
	const h = 1e-5
	for _, x := range []float64{-30, -3, -0.1, 0, 0.7, 5, 30} {
		for _, y := range []float64{-20, 0, 1.5, 20} {
			byReal, byFake := DiscriminatorLossGradient(x, y)
			r := (DiscriminatorLoss(x+h, y) - DiscriminatorLoss(x-h, y)) / (2 * h)
			f := (DiscriminatorLoss(x, y+h) - DiscriminatorLoss(x, y-h)) / (2 * h)
			if math.Abs(byReal-r) > 1e-8 || math.Abs(byFake-f) > 1e-8 {
				t.Errorf("gradient at (%g, %g) = (%g, %g), differences say (%g, %g)", x, y, byReal, byFake, r, f)
			}
		}
		g := (GeneratorLoss(x+h) - GeneratorLoss(x-h)) / (2 * h)
		if math.Abs(GeneratorLossGradient(x)-g) > 1e-8 {
			t.Errorf("generator gradient at %g = %g, differences say %g", x, GeneratorLossGradient(x), g)
		}
	}
}
