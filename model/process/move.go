package process

import (
	"errors"
	"fmt"
	"math"

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

// Constants of consistency models, as diffusers' LCMScheduler has them: the
// data's deviation, and what timesteps are scaled by.
const (
	consistencySigma = 0.5
	consistencyScale = 10
)

// ConsistencyCoefficients returns (a, b) of a consistency model's sample,
// f(x_t, t) = c_skip·x_t + c_out·x0(x_t, u) = a·x_t + b·u, with the boundary
// scalings c_skip = σ²/(τ² + σ²) and c_out = τ/√(τ² + σ²) of τ = 10·(t − 1) and
// σ = 0.5: at the network's index 0 the sample is x_t itself (Luo et al.,
// "Latent Consistency Models", arXiv 2310.04378, section 4).
func (s *Schedule) ConsistencyCoefficients(pred Prediction, t int) (a, b float64) {
	scaled := consistencyScale * float64(s.NetworkIndex(t))
	square := scaled*scaled + consistencySigma*consistencySigma
	skip, out := consistencySigma*consistencySigma/square, scaled/math.Sqrt(square)
	a, b = s.X0Coefficients(pred, t)
	return skip + out*a, out * b
}
