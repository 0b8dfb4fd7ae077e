package distill

import "fewstep/configs"

// Gate decides when the student may move in an adversarial phase: not during
// the discriminator's warm-up, which may end early by the phase's
// warmup_accuracy, and not while the discriminator's paired accuracy is below
// the phase's gate. Adam with β1 = 0 turns the noise of a discriminator at
// chance into full-size steps.
//
// The accuracy is that of pairs: real and fake share x_t, c and t, so what all
// logits of a sample have in common drowns their difference when each is
// compared with zero.
//
// Its zero value is the start of a phase. It is part of a run's state: saved and
// restored, decisions after a restart are those of a run never stopped.
type Gate struct {
	Accuracy float64 `json:"accuracy"` // mean paired accuracy over the window
	Seen     int64   `json:"seen"`     // samples observed
	Warm     bool    `json:"warm"`     // the warm-up ended by its accuracy
}

// Observe adds the paired accuracy of the discriminator's update on some
// samples: the share of them with logit_real > logit_fake. The mean is plain
// over the first window of samples and exponential with that length
// afterwards. A warm-up does not end within the first window.
func (g *Gate) Observe(p *configs.Phase, accuracy float64, samples, window int64) {
	g.Seen += samples
	weight := min(float64(samples)/float64(max(min(g.Seen, window), 1)), 1)
	g.Accuracy += weight * (accuracy - g.Accuracy)
	if p.WarmupAccuracy > 0 && g.Seen >= window && g.Accuracy >= p.WarmupAccuracy {
		g.Warm = true
	}
}

// StudentMoves reports whether the update after done samples of the phase moves
// the student. It follows from the updates before that one, so that an update
// need not wait for its own numbers.
func (g *Gate) StudentMoves(p *configs.Phase, done int64) bool {
	if done < p.WarmupDiscriminator && !g.Warm {
		return false
	}
	return p.Gate == 0 || g.Seen > 0 && g.Accuracy >= p.Gate
}

// Decides reports whether observations can change what StudentMoves says after
// done samples: where they cannot, nothing need wait for them.
func (g *Gate) Decides(p *configs.Phase, done int64) bool {
	return p.Gate > 0 || p.WarmupAccuracy > 0 && done < p.WarmupDiscriminator && !g.Warm
}
