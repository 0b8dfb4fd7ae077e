// Package process is what a kind of model calls noise: a schedule of how much of the picture and how much noise a sample
// holds at each timestep, and what a network's output means. From both follow (1), (3), (4) and (5) of the paper: the
// network's input, the clean latent, the noise, and a step from one timestep to another, all linear with two coefficients.
package process

import (
	"fmt"
	"math"

	"fewstep/internal/text"
	"fewstep/model/prediction"
)

// Schedule is a discrete noise schedule: the cumulative alphas ā_t for
// t = 0..T, with ā_0 = 1 (clean data). It is immutable.
type Schedule struct {
	alphaBar []float64 // indexed by the paper's t, length T+1
	plain    *Schedule // that this one rescales; nil where it is as it was made
}

// NewSchedule returns the "scaled linear" schedule of latent diffusion:
// sqrt(β) runs linearly from sqrt(betaStart) to sqrt(betaEnd) over steps
// timesteps, and ā_t is the running product of 1 − β. All in float64.
func NewSchedule(betaStart, betaEnd float64, steps int) (*Schedule, error) {
	if steps < 2 {
		return nil, fmt.Errorf("schedule: %d timesteps; at least 2 are needed", steps)
	}
	if !(betaStart > 0 && betaStart <= betaEnd && betaEnd < 1) {
		return nil, fmt.Errorf("schedule: beta_start %g and beta_end %g; 0 < beta_start <= beta_end < 1 is needed", betaStart, betaEnd)
	}
	s := &Schedule{alphaBar: make([]float64, steps+1)}
	s.alphaBar[0] = 1
	lo, hi := math.Sqrt(betaStart), math.Sqrt(betaEnd)
	for t := 1; t <= steps; t++ {
		root := lo + (hi-lo)*float64(t-1)/float64(steps-1)
		s.alphaBar[t] = s.alphaBar[t-1] * (1 - root*root)
	}
	return s, nil
}

// SDXLSchedule returns SDXL's schedule: β 0.00085 → 0.012 in 1000 steps.
func SDXLSchedule() *Schedule {
	s, err := NewSchedule(0.00085, 0.012, 1000)
	if err != nil {
		panic(err) // the constants above are valid
	}
	return s
}

// ParseScheduler reads a diffusers scheduler_config.json and returns its
// schedule, rescaled where it says so, and the prediction type of the model
// beside it. Schedules other than scaled_linear, and schedulers over another
// noise than that of diffusion in discrete steps, are errors that name them.
func ParseScheduler(data []byte) (*Schedule, Prediction, error) {
	c := struct {
		BetaStart float64 `json:"beta_start"`
		BetaEnd   float64 `json:"beta_end"`
		Schedule  string  `json:"beta_schedule"`
		Steps     int     `json:"num_train_timesteps"`
	}{BetaStart: 0.00085, BetaEnd: 0.012, Schedule: "scaled_linear", Steps: 1000}
	if err := text.JSON(data, &c); err != nil {
		return nil, 0, fmt.Errorf("scheduler config: %w", err)
	}
	if c.Schedule != "scaled_linear" {
		return nil, 0, fmt.Errorf("scheduler config: beta_schedule %q; only scaled_linear is supported", c.Schedule)
	}
	said, err := prediction.OfScheduler(data)
	if err != nil {
		return nil, 0, err
	}
	kind, _, err := prediction.Of(said)
	if err != nil {
		return nil, 0, fmt.Errorf("scheduler config: %w", err)
	}
	p, err := ParsePrediction(kind.Target)
	if err != nil {
		return nil, 0, fmt.Errorf("scheduler config: %w", err)
	}
	if err := p.CheckZeroSNR(kind.ZeroSNR); err != nil {
		return nil, 0, fmt.Errorf("scheduler config: %w", err)
	}
	s, err := NewSchedule(c.BetaStart, c.BetaEnd, c.Steps)
	if err != nil {
		return nil, 0, fmt.Errorf("scheduler config: %w", err)
	}
	return s.WithZeroSNR(kind.ZeroSNR), p, nil
}

// terminalAlpha is ā_T of a rescaled schedule: diffusers' EulerDiscreteScheduler
// keeps it above zero so that the first noise level is finite.
const terminalAlpha = 1.0 / (1 << 24)

// WithZeroSNR returns the schedule rescaled to zero terminal SNR, or as it was
// before that: sqrt(ā_t) is shifted so that it ends at zero, and scaled so that
// it begins where it did (Lin et al., "Common Diffusion Noise Schedules and
// Sample Steps are Flawed", arXiv 2305.08891, algorithm 1).
func (s *Schedule) WithZeroSNR(zero bool) *Schedule {
	if zero == s.ZeroSNR() {
		return s
	}
	if !zero {
		return s.plain
	}
	out := &Schedule{alphaBar: make([]float64, len(s.alphaBar)), plain: s}
	first, last := math.Sqrt(s.alphaBar[1]), math.Sqrt(s.alphaBar[s.T()])
	for t := range out.alphaBar {
		root := (math.Sqrt(s.alphaBar[t]) - last) * first / (first - last)
		out.alphaBar[t] = root * root
	}
	out.alphaBar[0], out.alphaBar[s.T()] = 1, terminalAlpha
	return out
}

// ZeroSNR says whether the schedule is rescaled to zero terminal SNR.
func (s *Schedule) ZeroSNR() bool { return s.plain != nil }

// T is the last timestep, where the network is fed pure noise (3.5).
func (s *Schedule) T() int { return len(s.alphaBar) - 1 }

// AlphaBar returns ā_t; NaN when t is outside 0..T.
func (s *Schedule) AlphaBar(t int) float64 {
	if t < 0 || t >= len(s.alphaBar) {
		return math.NaN()
	}
	return s.alphaBar[t]
}

// signalNoise returns sqrt(ā_t) and sqrt(1 − ā_t).
func (s *Schedule) signalNoise(t int) (signal, noise float64) {
	a := s.AlphaBar(t)
	return math.Sqrt(a), math.Sqrt(1 - a)
}

// Sigma returns sqrt((1 − ā_t) / ā_t), the noise level in the convention of
// Euler samplers.
func (s *Schedule) Sigma(t int) float64 {
	a := s.AlphaBar(t)
	return math.Sqrt((1 - a) / a)
}

// NetworkIndex returns the timestep index that a network is fed at t, t − 1.
// Clean data (t = 0, seen by the discriminator only) shares index 0 with t = 1.
func (s *Schedule) NetworkIndex(t int) int { return max(t-1, 0) }

// Grid returns the timesteps that n-step inference visits, largest first:
// round(T·k/n) for k = n..1, halves to even ("trailing" spacing, as
// diffusers). It is nil when n is outside 1..T.
func (s *Schedule) Grid(n int) []int {
	if n < 1 || n > s.T() {
		return nil
	}
	grid := make([]int, n)
	for i := range grid {
		grid[i] = RoundRatio(s.T()*(n-i), n)
	}
	return grid
}

// Next returns the timestep that follows t in n-step inference, 0 after the
// last. A t off the grid, such as the extra timesteps of (3.7), goes one
// stride of T/n down, clamped at 0.
func (s *Schedule) Next(n, t int) int {
	if k, ok := s.GridIndex(n, t); ok {
		return RoundRatio(s.T()*(k-1), n)
	}
	return max(RoundRatio(t*n-s.T(), n), 0)
}

// Euler returns the timesteps of n-step inference with the final 0: n network
// calls, each a [Schedule.Move] between neighbours, starting from pure noise.
func (s *Schedule) Euler(n int) []int {
	grid := s.Grid(n)
	if grid == nil {
		return nil
	}
	return append(grid, 0)
}

// GridIndex returns the k with t = round(T·k/n), if there is one in 1..n.
func (s *Schedule) GridIndex(n, t int) (k int, ok bool) {
	for k := max(t*n/s.T(), 1); k <= min(t*n/s.T()+1, n); k++ {
		if RoundRatio(s.T()*k, n) == t {
			return k, true
		}
	}
	return 0, false
}

// RoundRatio returns a/b rounded to the nearest integer, halves to even; b > 0.
func RoundRatio(a, b int) int {
	return int(math.RoundToEven(float64(a) / float64(b)))
}
