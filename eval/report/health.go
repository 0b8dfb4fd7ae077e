package report

import (
	"fmt"
	"math"
)

// Health is how a discriminator did over a phase.
type Health struct {
	State string // "at chance", "balanced", "winning", "collapsed" or "unknown"
	Text  string
}

// DiscriminatorHealth judges the last quarter of a phase from the curves of a
// non-saturating adversarial loss. At chance (accuracy 0.5, loss 2·ln 2) the
// student gets no direction; collapsed (accuracy 1, loss near 0) it gets no
// gradient worth having; both mean that the phase's result is to be looked at
// before it is believed.
func DiscriminatorHealth(loss, accuracy, gap []Point) Health {
	acc, ok := lateMean(accuracy)
	if !ok {
		return Health{"unknown", "no discriminator accuracy was recorded"}
	}
	text := fmt.Sprintf("accuracy %.2f", acc)
	l, hasLoss := lateMean(loss)
	if hasLoss {
		text += fmt.Sprintf(", loss %.3g (at chance: 1.39)", l)
	}
	if g, ok := lateMean(gap); ok {
		text += fmt.Sprintf(", logit gap %.3g", g)
	}
	text += " over the last quarter"
	switch {
	case acc >= 0.98 && (!hasLoss || l < 0.1):
		return Health{"collapsed", text + ": it tells every student sample apart and gives little gradient"}
	case acc >= 0.9:
		return Health{"winning", text + ": it is well ahead of the student"}
	case acc <= 0.55:
		return Health{"at chance", text + ": the student is indistinguishable to it, or it has not learned"}
	}
	return Health{"balanced", text}
}

// lateMean is the mean over the last quarter of the points.
func lateMean(points []Point) (float64, bool) {
	var sum float64
	n := 0
	for _, p := range points[len(points)*3/4:] {
		if !math.IsNaN(p.Value) && !math.IsInf(p.Value, 0) {
			sum += p.Value
			n++
		}
	}
	return sum / float64(max(n, 1)), n > 0
}

func (p Phase) curve(name string) []Point {
	for _, c := range p.Curves {
		if c.Name == name {
			return c.Points
		}
	}
	return nil
}

func (p Phase) adversarial() bool { return len(p.curve(AccuracyCurve)) > 0 }
