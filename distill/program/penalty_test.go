package program

import (
	"math"
	"testing"

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
			call := func(r1 R1, in ...*engine.Array) (loss float64, statistics []float32) {
				t.Helper()
				f := *w.f
				f.R1 = r1
				out, err := e.Call(f.Discriminator(form), w.bind, in...)
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
			r1 := R1{Weight: 3, Sigma: 0.5}
			noise := w.array(9, tinyInputs()[0]...)
			in := inputs(view, noise)
			plain, _ := call(R1{}, view...)
			loss, statistics := call(r1, in...)
			penalty := float64(statistics[StatR1])
			if penalty <= 1e-6 || math.Abs(loss-plain-r1.Weight*penalty) > 1e-5*loss {
				t.Errorf("loss %g with penalty %g, %g without", loss, penalty, plain)
			}
			d := tinyInputs()[0]
			if still, s := call(r1, inputs(view, w.upload(make([]float32, d[0]*d[1]*d[2]*d[3]), d...))...); s[StatR1] != 0 || math.Abs(still-plain) > 1e-6 {
				t.Errorf("without a nudge the penalty is %g", s[StatR1])
			}
			// One step of Adam without memory and with a large ε goes along the gradient itself.
			const eps = 1e4
			before := engine.Tensors{}
			for name, v := range w.values[NetDisc] {
				before[name] = append([]float32{}, v...)
			}
			o, err := e.NewOptimizer(engine.Adam{Eps: eps}, w.bind[NetDisc])
			if err != nil {
				t.Fatal(err)
			}
			f := *w.f
			f.R1 = r1
			res, err := e.Train(f.Discriminator(form), w.bind, NetDisc, o, engine.Step{LR: eps}, in...)
			if err != nil {
				t.Fatal(err)
			}
			after, err := e.Download(w.bind[NetDisc], w.bind[NetDisc].Trained())
			if err != nil {
				t.Fatal(err)
			}
			norm2, err := res.Norm2()
			if err != nil {
				t.Fatal(err)
			}
			norm := math.Sqrt(norm2)
			along := func(h float64) float64 {
				for name, v := range after {
					for i := range v {
						w.values[NetDisc][name][i] = before[name][i] + float32(h/norm*float64(before[name][i]-v[i]))
					}
				}
				w.load(NetDisc)
				l, _ := call(r1, in...)
				return l
			}
			slope := func(h float64) float64 { return (along(h) - along(-h)) / (2 * h) }
			const h = 1e-4
			if slope := (4*slope(h/2) - slope(h)) / 3; math.Abs(slope-norm) > 0.01*norm { // Richardson's: the third derivative is large
				t.Errorf("the loss rises by %g along its gradient, whose norm is %g", slope, norm)
			}
		})
	}
}
