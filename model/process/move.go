package process

import (
	"errors"
	"fmt"

	"fewstep/model/prediction"
)

// Prediction is what a network's output u means.
type Prediction int

const (
	Epsilon  Prediction = iota // u is the noise ε
	Sample                     // u is the clean latent x0
	Velocity                   // u is v = sqrt(ā_t)·ε − sqrt(1 − ā_t)·x0 (Salimans and Ho, arXiv 2202.00512)
)

// ParsePrediction reads diffusers' prediction_type: "epsilon", "v_prediction"
// or "sample".
func ParsePrediction(name string) (Prediction, error) {
	switch name {
	case prediction.Epsilon:
		return Epsilon, nil
	case prediction.Sample:
		return Sample, nil
	case prediction.V:
		return Velocity, nil
	}
	return 0, fmt.Errorf("prediction type %q; only epsilon, v_prediction and sample are supported", name)
}

// String returns diffusers' name of the prediction type.
func (p Prediction) String() string {
	switch p {
	case Sample:
		return prediction.Sample
	case Velocity:
		return prediction.V
	}
	return prediction.Epsilon
}

// CheckZeroSNR says why a network that predicts p cannot go with a schedule of
// zero terminal SNR: at its end the input is noise alone, and to predict that
// noise says nothing about the picture.
func (p Prediction) CheckZeroSNR(zero bool) error {
	if zero && p == Epsilon {
		return errors.New("a network that predicts epsilon cannot go with rescale_betas_zero_snr (zero terminal SNR): one of the two is wrong")
	}
	return nil
}

// NoisyCoefficients returns (a, b) of x_t = a·x0 + b·ε by (1):
// a = sqrt(ā_t), b = sqrt(1 − ā_t), at every t including T. This is the
// diffusion itself, as used inside [Schedule.MoveCoefficients].
func (s *Schedule) NoisyCoefficients(t int) (a, b float64) { return s.signalNoise(t) }

// ForwardCoefficients returns (a, b) of a network's input x_t = a·x0 + b·ε:
// (1), except at t = T where the input is pure noise, (0, 1): the schedule fix
// of (3.5). The conversions below keep the old ā_T.
func (s *Schedule) ForwardCoefficients(t int) (a, b float64) {
	if t == s.T() {
		return 0, 1
	}
	return s.signalNoise(t)
}

// X0Coefficients returns (a, b) of x0 = a·x_t + b·u: (3) for an ε-predicting
// network, (0, 1) for an x0-predicting one, (sqrt(ā_t), −sqrt(1 − ā_t)) for a
// v-predicting one.
func (s *Schedule) X0Coefficients(pred Prediction, t int) (a, b float64) {
	signal, noise := s.signalNoise(t)
	switch pred {
	case Sample:
		return 0, 1
	case Velocity:
		return signal, -noise
	}
	return 1 / signal, -noise / signal
}

// EpsilonCoefficients returns (a, b) of ε = a·x_t + b·u: (4) for an
// x0-predicting network, (0, 1) for an ε-predicting one, (sqrt(1 − ā_t),
// sqrt(ā_t)) for a v-predicting one. ε is undefined for x0-prediction at t = 0;
// the coefficients are then infinite.
func (s *Schedule) EpsilonCoefficients(pred Prediction, t int) (a, b float64) {
	signal, noise := s.signalNoise(t)
	switch pred {
	case Epsilon:
		return 0, 1
	case Velocity:
		return noise, signal
	}
	return 1 / noise, -signal / noise
}

// MoveCoefficients returns (a, b) of one deterministic DDIM step (5):
// x_{t'} = move(x_t, u, t, t') = forward(x0(u), ε(u), t') = a·x_t + b·u.
// t' = t gives exactly (1, 0).
func (s *Schedule) MoveCoefficients(pred Prediction, t, tNext int) (a, b float64) {
	if t == tNext {
		return 1, 0
	}
	signal, noise := s.signalNoise(t)
	signalNext, noiseNext := s.signalNoise(tNext)
	switch pred {
	case Sample:
		a = noiseNext / noise
		return a, signalNext - a*signal
	case Velocity:
		return signalNext*signal + noiseNext*noise, noiseNext*signal - signalNext*noise
	}
	a = signalNext / signal
	return a, noiseNext - a*noise
}

// Combine returns a·x + b·u elementwise: what every coefficient pair of this
// package is applied by. x and u must be of one length.
func Combine(a float64, x []float64, b float64, u []float64) []float64 {
	out := make([]float64, len(x))
	for i := range out {
		out[i] = a*x[i] + b*u[i]
	}
	return out
}

// Forward is (1) with the schedule fix: the network's input at t.
func (s *Schedule) Forward(x0, epsilon []float64, t int) []float64 {
	a, b := s.ForwardCoefficients(t)
	return Combine(a, x0, b, epsilon)
}

// X0FromEpsilon is (3): the clean latent that x_t and an ε-prediction imply.
func (s *Schedule) X0FromEpsilon(x, epsilon []float64, t int) []float64 {
	a, b := s.X0Coefficients(Epsilon, t)
	return Combine(a, x, b, epsilon)
}

// EpsilonFromX0 is (4): the noise that x_t and an x0-prediction imply.
func (s *Schedule) EpsilonFromX0(x, x0 []float64, t int) []float64 {
	a, b := s.EpsilonCoefficients(Sample, t)
	return Combine(a, x, b, x0)
}

// Move is (5): one deterministic step from t to t' with the output u.
func (s *Schedule) Move(pred Prediction, x, u []float64, t, tNext int) []float64 {
	a, b := s.MoveCoefficients(pred, t, tNext)
	return Combine(a, x, b, u)
}
