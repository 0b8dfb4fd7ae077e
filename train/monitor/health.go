package monitor

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// NonFinite says that a number is NaN or infinite. The training loop stops
// with it before anything is saved, so the run directory holds what it held.
type NonFinite struct {
	What    string // name of the value, or of the tensor that was to be saved
	Value   float64
	Stage   string
	Phase   string
	Step    int64    // the optimizer step in this phase, from 1
	Samples []int64  // indices of the batch's samples in the run
	Keys    []string // keys of the same samples in the data set
}

func (e *NonFinite) Error() string {
	s := fmt.Sprintf("%s is %v in stage %s, phase %s, step %d", e.What, e.Value, e.Stage, e.Phase, e.Step)
	switch {
	case len(e.Keys) > 0:
		s += fmt.Sprintf(", samples %s", shorten(e.Keys))
	case len(e.Samples) > 0:
		s += fmt.Sprintf(", samples %s", shorten(e.Samples))
	}
	return s + "; nothing of it was saved. Lower the learning rate, or look at the samples"
}

func shorten[T any](list []T) string {
	const most = 16
	if len(list) <= most {
		return fmt.Sprint(list)
	}
	return fmt.Sprintf("%v and %d more", list[:most], len(list)-most)
}

// CheckFinite returns a *NonFinite for the first value of r, by name, that is
// not finite, else nil. samples and keys name the batch; either may be nil.
func CheckFinite(r Record, samples []int64, keys []string) error {
	for _, name := range slices.Sorted(maps.Keys(r.Values)) {
		if x := r.Values[name]; math.IsNaN(x) || math.IsInf(x, 0) {
			return &NonFinite{What: name, Value: x, Stage: r.Stage, Phase: r.Phase, Step: r.Step, Samples: samples, Keys: keys}
		}
	}
	return nil
}

// Condition is the health of an adversarial phase.
type Condition string

const (
	Healthy Condition = "healthy"
	// Saturated: the discriminator is right about everything and its loss is near
	// zero; the student gets no useful gradient.
	Saturated Condition = "saturated"
	// AtChance: the discriminator cannot tell real from fake. Harmless when the
	// student is done, but with β1 = 0 Adam turns its noise into full-size steps.
	AtChance Condition = "at chance"
)

// Finding is a change of condition, or the reminder that a bad one lasts.
type Finding struct {
	Condition
	Stage, Phase string
	Step         int64
	Since        int64   // step at which the window began that showed it first
	Loss         float64 // mean of loss_d over the window
	Accuracy     float64 // mean of acc over the window
	Paired       float64 // mean of paired, or of acc where a record has none
}

// String is one sentence for the log, with what to do.
func (f Finding) String() string {
	where := fmt.Sprintf("stage %s, phase %s, step %d", f.Stage, f.Phase, f.Step)
	seen := fmt.Sprintf("loss %.3g, accuracy %.3f since step %d", f.Loss, f.Accuracy, f.Since)
	switch f.Condition {
	case Saturated:
		return fmt.Sprintf("discriminator has collapsed: it is always right (%s) in %s; lower its learning rate, or add noise levels", seen, where)
	case AtChance:
		return fmt.Sprintf("discriminator is at chance (loss %.3g, paired accuracy %.3f since step %d) in %s; if the student is not done, change its learning rate or give it warm-up steps",
			f.Loss, f.Paired, f.Since, where)
	}
	return fmt.Sprintf("discriminator has recovered (%s) in %s", seen, where)
}

// Watcher looks for discriminator collapse in the records of a run.
type Watcher struct {
	Window        int     // steps averaged
	SaturatedLoss float64 // mean loss_d below it ...
	SaturatedAcc  float64 // ... with a mean accuracy of at least this: saturated

	stage, phase string
	loss, acc    []float64 // the window, oldest first
	paired       []float64
	steps        []int64
	now          Condition
	since        int64
	reported     int64
}

// A discriminator is at chance where its mean paired accuracy is within chanceAccuracy of 0.5 and its mean loss_d within chanceLoss
// of 2·ln 2.
const (
	chanceAccuracy = 0.02
	chanceLoss     = 0.02
)

// Update takes one record. It returns a finding when the condition changes,
// and again every ten windows while a bad one lasts; otherwise nil. Records
// without loss_d and acc are ignored, a new phase starts afresh. After a
// continuation, feed it the phase's records from stats.jsonl first.
func (w *Watcher) Update(r Record) *Finding {
	if r.Stage != w.stage || r.Phase != w.phase {
		w.stage, w.phase = r.Stage, r.Phase
		w.loss, w.acc, w.paired, w.steps, w.now = nil, nil, nil, nil, Healthy
	}
	loss, ok := r.Values[LossD]
	acc, ok2 := r.Values[Accuracy]
	if !ok || !ok2 || r.Kind != KindStep {
		return nil
	}
	window := max(w.Window, 1)
	paired, ok := r.Values[Paired]
	if !ok {
		paired = acc
	}
	w.loss, w.acc, w.paired, w.steps = append(w.loss, loss), append(w.acc, acc), append(w.paired, paired), append(w.steps, r.Step)
	if len(w.loss) > window {
		w.loss, w.acc, w.paired, w.steps = w.loss[1:], w.acc[1:], w.paired[1:], w.steps[1:]
	}
	if len(w.loss) < window {
		return nil
	}
	f := &Finding{Condition: Healthy, Stage: r.Stage, Phase: r.Phase, Step: r.Step, Loss: mean(w.loss), Accuracy: mean(w.acc), Paired: mean(w.paired)}
	switch {
	case f.Loss < w.SaturatedLoss && f.Accuracy >= w.SaturatedAcc:
		f.Condition = Saturated
	case math.Abs(f.Paired-0.5) < chanceAccuracy && math.Abs(f.Loss-2*math.Ln2) < chanceLoss:
		f.Condition = AtChance
	}
	changed := f.Condition != w.now
	if changed {
		w.now, w.since = f.Condition, w.steps[0]
	}
	f.Since = w.since
	if !changed && (w.now == Healthy || r.Step-w.reported < int64(10*window)) {
		return nil
	}
	w.reported = r.Step
	return f
}

// Condition is the present condition of the phase.
func (w *Watcher) Condition() Condition {
	if w.now == "" {
		return Healthy
	}
	return w.now
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
