package distill

import "math"

// The formulas on slices, in float64: training computes them as graphs, from the coefficients of this package, in package
// program and in the methods.

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
	return combine(a, empty, b, prompt)
}

// combine returns a·x + b·u elementwise: what every coefficient pair of this
// package is applied by. x and u must be of one length.
func combine(a float64, x []float64, b float64, u []float64) []float64 {
	out := make([]float64, len(x))
	for i := range out {
		out[i] = a*x[i] + b*u[i]
	}
	return out
}

// ofForward is (1) with the schedule fix: the network's input at t.
func ofForward(s *Schedule, x0, epsilon []float64, t int) []float64 {
	a, b := s.ForwardCoefficients(t)
	return combine(a, x0, b, epsilon)
}

// ofX0FromEpsilon is (3): the clean latent that x_t and an ε-prediction imply.
func ofX0FromEpsilon(s *Schedule, x, epsilon []float64, t int) []float64 {
	a, b := s.X0Coefficients(Epsilon, t)
	return combine(a, x, b, epsilon)
}

// ofEpsilonFromX0 is (4): the noise that x_t and an x0-prediction imply.
func ofEpsilonFromX0(s *Schedule, x, x0 []float64, t int) []float64 {
	a, b := s.EpsilonCoefficients(Sample, t)
	return combine(a, x, b, x0)
}

// ofMove is (5): one deterministic step from t to t' with the output u.
func ofMove(s *Schedule, pred Prediction, x, u []float64, t, tNext int) []float64 {
	a, b := s.MoveCoefficients(pred, t, tNext)
	return combine(a, x, b, u)
}
