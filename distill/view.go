package distill

import "fmt"

// DiscriminatorLevel draws the noise level t* at which the discriminator of a
// one-step student sees the sample (3.7), with the weights given; equal ones
// where weights is empty. Without levels it returns (0, nil): the discriminator
// sees x_{t'} itself.
func DiscriminatorLevel(levels []int, weights []float64, seed uint64, sample int64) (int, error) {
	if len(levels) == 0 {
		return 0, nil
	}
	if len(weights) == 0 {
		return levels[Pick(len(levels), seed, DiscriminatorLevels, sample, 0)], nil
	}
	if len(weights) != len(levels) {
		return 0, fmt.Errorf("discriminator noise: %d levels with %d weights", len(levels), len(weights))
	}
	i, err := Choice(weights, seed, DiscriminatorLevels, sample, 0)
	if err != nil {
		return 0, fmt.Errorf("discriminator noise weights: %w", err)
	}
	return levels[i], nil
}

// DiscriminatorView returns what the discriminator of level t* (see
// [DiscriminatorLevel]) is shown of a sample x_{t'}: forward(x, ε*, t*) at t*,
// where ε* is shared between real and fake, as coefficients of x and ε*. Level
// 0 shows x_{t'} itself at t'.
func DiscriminatorView(s *Schedule, tNext, level int) (t int, a, b float64) {
	if level == 0 {
		return tNext, 1, 0
	}
	a, b = s.ForwardCoefficients(level)
	return level, a, b
}
