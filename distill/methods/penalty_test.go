package methods_test

import (
	"math"
	"testing"

	"fewstep/distill/method/adversarial"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// The penalised loss is (20) plus λ times the penalty, and its gradient is that of finite differences; without a nudge
// there is no penalty.
func TestPenalty(t *testing.T) {
	for _, form := range []discriminator.Form{discriminator.Conditional, discriminator.Unconditional} {
		t.Run(string(form), func(t *testing.T) {
			e := engine.New(runtime.Backend, dtypes.Float32, nn.Network)
			w := newWorld(t, e, "disc", nil, form, false)
			view := w.inputs("disc")
			call := func(r1 adversarial.R1, in ...*engine.Array) (loss float64, statistics []float32) {
				t.Helper()
				out, err := e.Call(adversarial.Discriminator(w.f, r1, form), w.bind, in...)
				if err != nil {
					t.Fatal(err)
				}
				v, err := e.Floats(out[0])
				if err != nil {
					t.Fatal(err)
				}
				if statistics, err = e.Floats(out[1]); err != nil {
					t.Fatal(err)
				}
				return float64(v[0]), statistics
			}
			r1 := adversarial.R1{Weight: 3, Sigma: 0.5}
			noise := w.array(9, tinyInputs()[0]...)
			in := inputs(view, noise)
			plain, _ := call(adversarial.R1{}, view...)
			loss, statistics := call(r1, in...)
			penalty := float64(statistics[adversarial.StatR1])
			if penalty <= 1e-6 || math.Abs(loss-plain-r1.Weight*penalty) > 1e-5*loss {
				t.Errorf("loss %g with penalty %g, %g without", loss, penalty, plain)
			}
			d := tinyInputs()[0]
			if still, s := call(r1, inputs(view, w.upload(make([]float32, d[0]*d[1]*d[2]*d[3]), d...))...); s[adversarial.StatR1] != 0 || math.Abs(still-plain) > 1e-6 {
				t.Errorf("without a nudge the penalty is %g", s[adversarial.StatR1])
			}
			if slope, norm := w.rises(1e-4, program.NetDisc, adversarial.Discriminator(w.f, r1, form), in...); math.Abs(slope-norm) > 0.01*norm {
				t.Errorf("the loss rises by %g along its gradient, whose norm is %g", slope, norm)
			}
		})
	}
}
