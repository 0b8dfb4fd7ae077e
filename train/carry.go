package train

import (
	"strings"

	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/monitor"
)

// handsOn says whether a later phase goes on with this one's discriminator and the state of its optimizer.
func (w *worker) handsOn() bool {
	if !w.hasCritic() || !w.Config.Discriminator.CarryOptimizer {
		return false
	}
	for _, s := range w.Ladder.Steps()[w.at+1:] {
		if s.Method().Critic {
			return s.DiscriminatorBackbone == distill.Carried
		}
	}
	return false
}

// carryOptimizer gives the discriminator's optimizer the state that the phase before left it in. A tensor of a fresh head
// has no history: its second moment starts at the mean of what the tensor of its name had, which is of its size, since
// at zero, with the bias correction of a long run, its first steps would be ten times too long.
func (w *worker) carryOptimizer() error {
	last, o := w.models.lastCritic(w.at), w.s.Optimizer(method.Discriminator)
	before, err := w.Dir.Result(last.StageName, last.PhaseName)
	if err != nil {
		return err
	}
	var s monitor.Summary
	if err := before.Meta(&s); err != nil {
		return err
	}
	path := before.Path(stateFile(method.Discriminator))
	f, err := weights.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	saved, read := savedState(f, path, o), pipeline.Reader(f)
	fresh := w.s.Step.DiscriminatorHead == distill.Fresh
	return w.s.Engine.RestoreOptimizer(o, func(s nn.Spec) ([]float32, error) {
		kind, name, _ := strings.Cut(s.Name, ".")
		_, missing := f.Tensor(s.Name)
		switch {
		case kind == "m" && (missing != nil || fresh && discriminator.IsHead(name)):
			return make([]float32, s.Size()), nil
		case fresh && discriminator.IsHead(name):
			t, err := f.Tensor(s.Name)
			if err != nil {
				return nil, err
			}
			v, err := read(nn.Spec{Name: s.Name, Dims: t.Shape})
			if err != nil {
				return nil, err
			}
			return constant(mean(v), s.Size()), nil
		}
		return saved(s)
	}, s.DiscriminatorSteps)
}

func mean(v []float32) float32 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x)
	}
	return float32(sum / float64(max(len(v), 1)))
}

func constant(x float32, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = x
	}
	return v
}
