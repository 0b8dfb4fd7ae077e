// Package scheduler samples from other people's models as their releases say: diffusers' schedulers by their rules, on
// the grid, the starting noise and the fresh noise that each has.
//
// A scheduler is a list of [Move]s, each one network call:
//
//	x' = A·x + B·u + C·z
//
// with u the network's output and z fresh noise. x is the variance-preserving latent that the network is fed, for
// Euler's schedulers too, whose own latents are x/√ā.
package scheduler

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"fewstep/distill"
)

// Name is a scheduler's name: the sampler of a rows file.
type Name string

// The schedulers, by the releases that want them.
const (
	Trained        Name = "trained"         // fewstep's students: the trailing grid, from the noise itself (3.5)
	Euler          Name = "euler"           // EulerDiscreteScheduler, trailing: Lightning, Hyper-SD
	EulerLeading   Name = "euler-leading"   // EulerDiscreteScheduler, leading: SDXL as it is distributed
	EulerAncestral Name = "euler-ancestral" // EulerAncestralDiscreteScheduler, trailing: SDXL-Turbo
	DDIM           Name = "ddim"            // DDIMScheduler, trailing, η = 0
	DDIMLeading    Name = "ddim-leading"    // DDIMScheduler, leading, η = 0
	LCM            Name = "lcm"             // LCMScheduler: LCM, LCM-LoRA
)

var names = []Name{Trained, Euler, EulerLeading, EulerAncestral, DDIM, DDIMLeading, LCM}

// Names lists them for people.
func Names() string {
	var all []string
	for _, n := range names {
		all = append(all, string(n))
	}
	return strings.Join(all, ", ")
}

// Parse reads a name; "" is Trained.
func Parse(name string) (Name, error) {
	if name == "" {
		return Trained, nil
	}
	if !slices.Contains(names, Name(name)) {
		return "", fmt.Errorf("unknown sampler %q; there are %s", name, Names())
	}
	return Name(name), nil
}

// Settings are those of a scheduler_config.json that some schedulers heed.
type Settings struct {
	StepsOffset   int  `json:"steps_offset"`             // added to the timesteps of a leading grid
	AlphaToOne    bool `json:"set_alpha_to_one"`         // DDIM ends at clean data, not at the first timestep
	OriginalSteps int  `json:"original_inference_steps"` // that a consistency model was distilled at
}

// ParseSettings reads a scheduler_config.json; what it lacks is diffusers' default.
func ParseSettings(raw []byte) (Settings, error) {
	s := Settings{AlphaToOne: true, OriginalSteps: 50}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("scheduler_config.json: %w", err)
	}
	return s, nil
}

// Move is one network call and what follows from it.
type Move struct {
	Index   int     // the timestep that the network is fed, counted from 0
	A, B, C float64 // x' = A·x + B·u + C·z
}

// Plan is how a scheduler samples: standard normal noise times Start is the first x.
type Plan struct {
	Start float64
	Moves []Move
}

// PlanBy is Plan with the settings of a scheduler_config.json; original, if it is not 0, is Settings.OriginalSteps.
func (n Name) PlanBy(config []byte, schedule *distill.Schedule, prediction distill.Prediction, steps, original int) (*Plan, error) {
	settings, err := ParseSettings(config)
	if err != nil {
		return nil, err
	}
	if original > 0 {
		settings.OriginalSteps = original
	}
	p, err := n.Plan(schedule, prediction, settings, steps)
	return &p, err
}

// Plan lays out n network calls for a network of the given prediction type.
func (n Name) Plan(schedule *distill.Schedule, prediction distill.Prediction, settings Settings, steps int) (Plan, error) {
	T := schedule.T()
	if steps < 1 || steps > T {
		return Plan{}, fmt.Errorf("sampler %s: %d steps; 1 to %d are possible", n, steps, T)
	}
	p := Plan{Start: 1}
	trailing := schedule.Grid(steps)
	leading := make([]int, steps) // in the paper's count, one above the network's
	for i := range leading {
		leading[i] = (steps-1-i)*(T/steps) + settings.StepsOffset + 1
	}
	if leading[0] > T && (n == EulerLeading || n == DDIMLeading) {
		return Plan{}, fmt.Errorf("sampler %s: %d steps with an offset of %d begin beyond the last timestep", n, steps, settings.StepsOffset)
	}
	switch n {
	case Trained:
		p.along(schedule, prediction, append(trailing, 0))
	case Euler:
		_, p.Start = schedule.NoisyCoefficients(T)
		p.along(schedule, prediction, append(trailing, 0))
	case EulerLeading:
		p.along(schedule, prediction, append(leading, 0))
	case DDIM:
		p.strides(schedule, prediction, settings, trailing)
	case DDIMLeading:
		p.strides(schedule, prediction, settings, leading)
	case EulerAncestral:
		_, p.Start = schedule.NoisyCoefficients(T)
		p.ancestral(schedule, prediction, append(trailing, 0))
	case LCM:
		return p, p.consistency(schedule, prediction, settings, steps)
	default:
		return Plan{}, fmt.Errorf("unknown sampler %q", n)
	}
	return p, nil
}

// along moves from each timestep to the next.
func (p *Plan) along(s *distill.Schedule, prediction distill.Prediction, walk []int) {
	for i, t := range walk[:len(walk)-1] {
		a, b := s.MoveCoefficients(prediction, t, walk[i+1])
		p.Moves = append(p.Moves, Move{Index: s.NetworkIndex(t), A: a, B: b})
	}
}

// strides moves ⌊T/n⌋ timesteps at each call, as DDIMScheduler does, whatever the grid's next timestep is.
func (p *Plan) strides(s *distill.Schedule, prediction distill.Prediction, settings Settings, grid []int) {
	last := 0
	if !settings.AlphaToOne {
		last = 1
	}
	for _, t := range grid {
		next := t - s.T()/len(grid)
		if next <= 0 {
			next = last
		}
		a, b := s.MoveCoefficients(prediction, t, next)
		p.Moves = append(p.Moves, Move{Index: s.NetworkIndex(t), A: a, B: b})
	}
}

// ancestral goes down to σ_down and back up to the next σ with fresh noise.
func (p *Plan) ancestral(s *distill.Schedule, prediction distill.Prediction, walk []int) {
	for i, t := range walk[:len(walk)-1] {
		from, to := s.Sigma(t), s.Sigma(walk[i+1])
		up := to / from * math.Sqrt(from*from-to*to)
		down := math.Sqrt(to*to - up*up)
		signal, _ := s.NoisyCoefficients(t)
		next, _ := s.NoisyCoefficients(walk[i+1])
		// x'/√ā' = x0 + σ_down·ε + σ_up·z, with x0 and ε of (3) and (4).
		xa, xb := s.X0Coefficients(prediction, t)
		m := Move{Index: s.NetworkIndex(t), C: next * up}
		if prediction == distill.Epsilon {
			m.A, m.B = next/signal, next*(down-from)
		} else {
			ea, eb := s.EpsilonCoefficients(prediction, t)
			m.A, m.B = next*(xa+down*ea), next*(xb+down*eb)
		}
		p.Moves = append(p.Moves, m)
	}
}

// consistency jumps to the clean latent at each call, by the boundary condition of consistency models, and back up to
// the next timestep with fresh noise. Its timesteps are among those that the model was distilled at.
func (p *Plan) consistency(s *distill.Schedule, prediction distill.Prediction, settings Settings, steps int) error {
	original := settings.OriginalSteps
	if original < 1 || original > s.T() || steps > original {
		return fmt.Errorf("sampler %s: %d steps of a model that was distilled at %d; that many at most", LCM, steps, original)
	}
	grid := make([]int, steps)
	for i := range grid {
		k := original - i*original/steps // ⌊linspace⌋ of the reversed grid
		grid[i] = k * (s.T() / original)
	}
	for i, t := range grid {
		m := Move{Index: s.NetworkIndex(t)}
		m.A, m.B = s.ConsistencyCoefficients(prediction, t)
		if i+1 < steps {
			signal, noise := s.NoisyCoefficients(grid[i+1])
			m.A, m.B, m.C = signal*m.A, signal*m.B, noise
		}
		p.Moves = append(p.Moves, m)
	}
	return nil
}
