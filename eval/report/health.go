package report

import (
	"fmt"
	"math"
)

// Health is how a discriminator did over a phase.
type Health struct {
	State               string // "at chance", "balanced", "winning", "collapsed" or "unknown"
	Text                string
	Accuracy, Loss, Gap string // over the last quarter; "–" where it was not recorded
	Paired, GapError    string // the same; GapError is the standard error of the mean gap over the updates, "" where unknown
}

// DiscriminatorHealth judges the last quarter of a phase from the curves of a
// non-saturating adversarial loss. paired is the accuracy of pairs that share x_t, which sees what is lost in the spread
// of logits from one pair to the next: where it was recorded, chance is judged by it. At chance (accuracy 0.5, loss
// 2·ln 2) the student gets no direction; collapsed (accuracy 1, loss near 0) it gets no
// gradient worth having; both mean that the phase's result is to be looked at
// before it is believed.
func DiscriminatorHealth(loss, accuracy, paired, gap []Point) Health {
	h := Health{State: "balanced", Accuracy: "–", Loss: "–", Gap: "–", Paired: "–"}
	acc, ok := lateMean(accuracy)
	if !ok {
		h.State, h.Text = "unknown", "no discriminator accuracy was recorded"
		return h
	}
	h.Accuracy = fmt.Sprintf("%.2f", acc)
	h.Text = "accuracy " + h.Accuracy
	chance := acc
	if p, ok := lateMean(paired); ok {
		h.Paired, chance = fmt.Sprintf("%.2f", p), p
		h.Text += ", of pairs " + h.Paired
	}
	l, hasLoss := lateMean(loss)
	if hasLoss {
		h.Loss = short(l)
		h.Text += fmt.Sprintf(", loss %s (at chance: 1.39)", h.Loss)
	}
	if g, ok := lateMean(gap); ok {
		h.Gap = short(g)
		h.Text += ", logit gap " + h.Gap
		if e, ok := lateError(gap); ok {
			h.GapError = short(e)
			h.Text += " ± " + h.GapError
		}
	}
	h.Text += " over the last quarter"
	switch {
	case acc >= 0.98 && (!hasLoss || l < 0.1):
		h.State = "collapsed"
		h.Text += ": it tells every student sample apart and gives little gradient"
	case acc >= 0.9:
		h.State = "winning"
		h.Text += ": it is well ahead of the student"
	case chance <= 0.55:
		h.State = "at chance"
		h.Text += ": the student is indistinguishable to it, or it has not learned"
	}
	return h
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

// lateError is the standard error of lateMean, taking the points for independent.
func lateError(points []Point) (float64, bool) {
	mean, ok := lateMean(points)
	var squares float64
	n := 0
	for _, p := range points[len(points)*3/4:] {
		if !math.IsNaN(p.Value) && !math.IsInf(p.Value, 0) {
			squares += (p.Value - mean) * (p.Value - mean)
			n++
		}
	}
	if !ok || n < 2 {
		return 0, false
	}
	return math.Sqrt(squares / float64(n-1) / float64(n)), true
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
