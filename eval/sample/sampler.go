package sample

import (
	"fmt"
	"strings"

	"fewstep/distill"
)

// Sampler is a deterministic way from noise to a picture. All visit the trailing grid.
type Sampler int

// Samplers. They differ in how strong the first noise is, and DDIM in where its steps end.
const (
	// Trained starts at T with the noise itself, as the students are trained (3.5). ComfyUI's samplers start so too.
	Trained Sampler = iota
	// Euler is diffusers' EulerDiscreteScheduler with trailing spacing. It starts at sqrt(1−ā_T) times the noise.
	Euler
	// DDIM is diffusers' DDIMScheduler with trailing spacing, η = 0 and no clipping. It starts with the noise itself;
	// every step is ⌊T/N⌋ timesteps long, whatever the grid's next timestep is.
	DDIM
)

var samplers = []string{"trained", "euler", "ddim"}

// String is the sampler's name on the command line.
func (s Sampler) String() string { return samplers[s] }

// ParseSampler reads a sampler's name.
func ParseSampler(name string) (Sampler, error) {
	for i, s := range samplers {
		if s == name {
			return Sampler(i), nil
		}
	}
	return 0, fmt.Errorf("unknown sampler %q; there are %s", name, strings.Join(samplers, ", "))
}

// Step is one network call and the move from its timestep to the next, both in the paper's count.
type Step struct{ At, To int }

// Steps are the n network calls of a sampler. ddimEnd is the timestep whose ā ends DDIM.
func (s Sampler) Steps(schedule *distill.Schedule, n, ddimEnd int) []Step {
	walk := schedule.Euler(n)
	steps := make([]Step, 0, n)
	for i := range max(0, len(walk)-1) {
		step := Step{walk[i], walk[i+1]}
		if s == DDIM {
			if step.To = step.At - schedule.T()/n; step.To <= 0 {
				step.To = ddimEnd
			}
		}
		steps = append(steps, step)
	}
	return steps
}

// StartScale is what standard normal noise is multiplied by to start from.
func (s Sampler) StartScale(schedule *distill.Schedule) float64 {
	if s == Euler {
		_, noise := schedule.NoisyCoefficients(schedule.T())
		return noise
	}
	return 1
}
