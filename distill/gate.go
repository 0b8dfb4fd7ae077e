package distill

// Gate decides when the student may move in an adversarial phase: not during
// the discriminator's warm-up, and not while the discriminator's accuracy is
// below the phase's gate, because Adam with β1 = 0 turns the noise of a
// discriminator at chance into full-size steps.
//
// Its zero value is the start of a phase. It is part of a run's state: saved and
// restored, decisions after a restart are those of a run never stopped.
type Gate struct {
	Accuracy float64 `json:"accuracy"` // mean over the window
	Seen     int64   `json:"seen"`     // samples observed
}

// Observe adds the accuracy of the discriminator's update on some samples: the
// share of its logits, real and fake, that have the right sign. The mean is
// plain over the first window of samples and exponential with that length
// afterwards.
func (g *Gate) Observe(accuracy float64, samples, window int64) {
	g.Seen += samples
	weight := min(float64(samples)/float64(max(min(g.Seen, window), 1)), 1)
	g.Accuracy += weight * (accuracy - g.Accuracy)
}

// StudentMoves reports whether the student is updated after done samples of the
// phase.
func (g *Gate) StudentMoves(p *Phase, done int64) bool {
	if done < p.WarmupDiscriminator {
		return false
	}
	return p.Gate == 0 || g.Seen > 0 && g.Accuracy >= p.Gate
}
