package scheduler

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/distill"
)

// settingsOf are those that testdata/generate.py gives each scheduler.
var settingsOf = map[Name]Settings{
	EulerLeading: {StepsOffset: 1}, DDIMLeading: {StepsOffset: 1, AlphaToOne: true}, LCM: {OriginalSteps: 50, AlphaToOne: true},
}

// TestAgainstDiffusers follows diffusers' schedulers at every call, in float64; its Euler schedulers round each step to
// float32.
func TestAgainstDiffusers(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "schedulers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Cases []struct {
			Scheduler Name
			Steps     int
			Timesteps []int
			Fed       [][]float64
			End       []float64
		}
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Cases) != 36 {
		t.Fatalf("%d cases", len(golden.Cases))
	}
	worst := map[float64]float64{}
	tolerance := 0.0
	near := func(got, want []float64) bool {
		for i := range want {
			d := math.Abs(got[i]-want[i]) / max(1, math.Abs(want[i]))
			if worst[tolerance] = max(worst[tolerance], d); !(d < tolerance) {
				return false
			}
		}
		return len(got) == len(want)
	}
	s := distill.SDXLSchedule()
	for _, c := range golden.Cases {
		p, err := c.Scheduler.Plan(s, distill.Epsilon, settingsOf[c.Scheduler], c.Steps)
		if err != nil {
			t.Fatal(err)
		}
		if tolerance = 1e-12; strings.HasPrefix(string(c.Scheduler), "euler") {
			tolerance = 1e-6
		}
		x := []float64{0.7 * p.Start, -1.3 * p.Start, 0.1 * p.Start}
		fresh := 0
		for i, m := range p.Moves {
			if m.Index != c.Timesteps[i] {
				t.Fatalf("%s, %d steps: call %d is at timestep %d, diffusers' at %d", c.Scheduler, c.Steps, i, m.Index, c.Timesteps[i])
			}
			if !near(x, c.Fed[i]) {
				t.Fatalf("%s, %d steps: call %d is fed %v, diffusers' %v", c.Scheduler, c.Steps, i, x, c.Fed[i])
			}
			if m.C != 0 {
				fresh++
			}
			for k, z := range []float64{1, -1, 0.5} {
				u := 0.3*x[k] + 0.2*math.Sin(float64(m.Index)/100)
				x[k] = m.A*x[k] + m.B*u + m.C*z*math.Cos(float64(fresh))
			}
		}
		if !near(x, c.End) {
			t.Errorf("%s, %d steps: ends at %v, diffusers' at %v", c.Scheduler, c.Steps, x, c.End)
		}
	}
	t.Logf("largest relative difference, by tolerance: %.1e", worst)
}

// TestPredictionsAgree: a network that predicts x0 takes the same way as one that predicts the noise.
func TestPredictionsAgree(t *testing.T) {
	s := distill.SDXLSchedule()
	for _, name := range names {
		settings := Settings{StepsOffset: 1, OriginalSteps: 50}
		e, err := name.Plan(s, distill.Epsilon, settings, 4)
		if err != nil {
			t.Fatal(err)
		}
		d, err := name.Plan(s, distill.Sample, settings, 4)
		if err != nil {
			t.Fatal(err)
		}
		x := 0.8
		for i, m := range e.Moves {
			u := 0.3*x + 0.1
			xa, xu := s.X0Coefficients(distill.Epsilon, m.Index+1)
			x0 := xa*x + xu*u
			next, other := m.A*x+m.B*u, d.Moves[i].A*x+d.Moves[i].B*x0
			if math.Abs(next-other) > 1e-9*max(1, math.Abs(next)) || m.C != d.Moves[i].C {
				t.Errorf("%s: call %d gives %g for a prediction of noise, %g for the same of x0", name, i, next, other)
			}
			x = next
		}
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Parse("dpm++"); err == nil || !strings.Contains(err.Error(), "euler-ancestral") {
		t.Errorf("an unknown name: %v", err)
	}
	if n, err := Parse(""); err != nil || n != Trained {
		t.Errorf("no name: %v, %v", n, err)
	}
	s := distill.SDXLSchedule()
	for _, c := range []struct {
		name  Name
		steps int
		with  Settings
	}{{Trained, 0, Settings{}}, {Euler, 1001, Settings{}}, {LCM, 51, Settings{OriginalSteps: 50}}, {LCM, 4, Settings{}}, {EulerLeading, 1000, Settings{StepsOffset: 1}}, {"none", 4, Settings{}}} {
		if p, err := c.name.Plan(s, distill.Epsilon, c.with, c.steps); err == nil {
			t.Errorf("%s with %d steps: %d moves", c.name, c.steps, len(p.Moves))
		}
	}
	if p, err := Euler.PlanBy([]byte(`{"steps_offset": 1}`), s, distill.Epsilon, 1000, 0); err != nil || len(p.Moves) != 1000 {
		t.Errorf("the offset of leading grids keeps a trailing one from all its steps: %v", err)
	}
	if _, err := Euler.PlanBy([]byte("{"), s, distill.Epsilon, 4, 0); err == nil {
		t.Error("a broken config gave a plan")
	}
	for _, name := range names {
		for _, n := range []int{1, 7, 50} {
			p, err := name.Plan(s, distill.Epsilon, Settings{StepsOffset: 1, OriginalSteps: 50}, n)
			if err != nil || len(p.Moves) != n {
				t.Errorf("%s: %d moves in %d steps, %v", name, len(p.Moves), n, err)
			}
			for _, m := range p.Moves {
				if m.Index < 0 || m.Index > 999 || math.IsNaN(m.A+m.B+m.C) || math.IsInf(m.A+m.B+m.C, 0) {
					t.Errorf("%s, %d steps: move %+v", name, n, m)
				}
			}
		}
	}
}

func TestParseSettings(t *testing.T) {
	for content, want := range map[string]Settings{
		`{"steps_offset": 1, "set_alpha_to_one": false}`: {StepsOffset: 1, OriginalSteps: 50},
		`{"original_inference_steps": 25}`:               {AlphaToOne: true, OriginalSteps: 25},
	} {
		if got, err := ParseSettings([]byte(content)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", content, got, err)
		}
	}
	for _, content := range []string{"{", "", `{"steps_offset": "x"}`} {
		if _, err := ParseSettings([]byte(content)); err == nil || !strings.Contains(err.Error(), "scheduler_config.json") {
			t.Errorf("%q: %v", content, err)
		}
	}
}
