package scheduler

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"fewstep/distill"
	"fewstep/model/process"
)

// Every step of every sampler against diffusers' schedulers; see testdata/make_samplers.py.
func TestSamplersAgainstDiffusers(t *testing.T) {
	raw, err := os.ReadFile("testdata/samplers.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Noise []float64
		Cases []struct {
			Sampler, Prediction string
			Steps               int
			AlphaToOne          bool `json:"alpha_to_one"`
			ZeroSNR             bool `json:"zero_snr"`
			Timesteps           []int
			Inputs              [][]float64
			End                 []float64
		}
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	for _, c := range golden.Cases {
		t.Run(fmt.Sprintf("%s %s %d %t %t", c.Sampler, c.Prediction, c.Steps, c.AlphaToOne, c.ZeroSNR), func(t *testing.T) {
			schedule := distill.SDXLSchedule().WithZeroSNR(c.ZeroSNR)
			prediction, err := process.ParsePrediction(c.Prediction)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Name(c.Sampler).Plan(schedule, prediction, Settings{AlphaToOne: c.AlphaToOne}, c.Steps)
			if err != nil {
				t.Fatal(err)
			}
			tolerance := 2e-5
			if c.ZeroSNR {
				tolerance = 1e-3 // diffusers begins with noise times 4096, in f32, where the next number is 5e-4 away
			}
			if len(p.Moves) != len(c.Timesteps) {
				t.Fatalf("%d steps, want %d", len(p.Moves), len(c.Timesteps))
			}
			x := make([]float64, len(golden.Noise))
			for i, v := range golden.Noise {
				x[i] = v * p.Start
			}
			for k, m := range p.Moves {
				if m.Index != c.Timesteps[k] {
					t.Fatalf("step %d is at timestep %d, want %d", k, m.Index, c.Timesteps[k])
				}
				near(t, fmt.Sprintf("input of step %d", k), tolerance, x, c.Inputs[k])
				for i := range x {
					x[i] = m.A*x[i] + m.B*(0.3*x[i]+math.Sin(float64(m.Index)/100+float64(i)))
				}
			}
			near(t, "end", tolerance, x, c.End)
		})
	}
}

// near allows for the rounding of diffusers' f32.
func near(t *testing.T, what string, tolerance float64, got, want []float64) {
	t.Helper()
	largest := 0.0
	for _, w := range want {
		largest = max(largest, math.Abs(w))
	}
	for i := range want {
		if d := math.Abs(got[i] - want[i]); !(d <= tolerance*largest) {
			t.Errorf("%s: value %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}
