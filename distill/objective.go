package distill

import (
	"fmt"
	"math"

	"fewstep/model/process"
)

// MSE is (16): the mean of squared differences between the student's x̂_{t'}
// and the teacher's x_{t'}, which must be of one length.
func MSE(student, teacher []float64) float64 {
	sum := 0.0
	for i := range student {
		d := student[i] - teacher[i]
		sum += d * d
	}
	return sum / float64(len(student))
}

// Softplus is log(1 + exp(x)), exact to rounding for every finite x.
func Softplus(x float64) float64 {
	return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x)))
}

// Sigmoid is 1 / (1 + exp(−x)) without overflow: the derivative of Softplus.
func Sigmoid(x float64) float64 {
	if x >= 0 {
		return 1 / (1 + math.Exp(-x))
	}
	e := math.Exp(x)
	return e / (1 + e)
}

// DiscriminatorLoss is (20) on logits: softplus(−real) + softplus(fake).
func DiscriminatorLoss(real, fake float64) float64 { return Softplus(-real) + Softplus(fake) }

// DiscriminatorLossGradient returns the derivatives of [DiscriminatorLoss] by
// its two logits.
func DiscriminatorLossGradient(real, fake float64) (byReal, byFake float64) {
	return -Sigmoid(-real), Sigmoid(fake)
}

// GeneratorLoss is (21) on the logit, non-saturating: softplus(−fake).
func GeneratorLoss(fake float64) float64 { return Softplus(-fake) }

// GeneratorLossGradient returns the derivative of [GeneratorLoss] by its logit.
func GeneratorLossGradient(fake float64) float64 { return -Sigmoid(-fake) }

// GuidanceCoefficients returns (a, b) of classifier-free guidance,
// u = a·u_empty + b·u_prompt = u_empty + scale·(u_prompt − u_empty).
func GuidanceCoefficients(scale float64) (a, b float64) { return 1 - scale, scale }

// Guide applies classifier-free guidance of the scale to a teacher's two
// outputs, for the empty prompt and for the caption.
func Guide(empty, prompt []float64, scale float64) []float64 {
	a, b := GuidanceCoefficients(scale)
	return process.Combine(a, empty, b, prompt)
}

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
