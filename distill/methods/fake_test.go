package methods_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"fewstep/distill/method/adversarial"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// One forward pass for both updates of an adversarial step gives the same bits as one for each.
func TestSharedForwardChangesNothing(t *testing.T) {
	e := engine.New(runtime.Backend, dtypes.Float32, nn.Layer)
	lora := &nn.LoRA{Rank: 2, Scale: 0.5}
	for _, c := range []struct {
		lora *nn.LoRA
		form discriminator.Form
		clip float64
	}{{nil, discriminator.Conditional, 0}, {lora, discriminator.Unconditional, 0}, {lora, discriminator.Conditional, 0.01}} {
		t.Run(fmt.Sprintf("%t-%s-%g", c.lora != nil, c.form, c.clip), func(t *testing.T) {
			adam := engine.Adam{Beta2: 0.99, ClipNorm: c.clip, Eps: 1e-8}
			separate := newWorld(t, e, "gen", c.lora, c.form, false).adversarial(c.form, adam, false)
			shared := newWorld(t, e, "gen", c.lora, c.form, false).adversarial(c.form, adam, true)
			for _, name := range slices.Sorted(maps.Keys(separate)) {
				if !slices.Equal(separate[name], shared[name]) {
					t.Errorf("%s differs", name)
				}
			}
			if len(separate) < 10 || len(shared) != len(separate) {
				t.Errorf("%d and %d results", len(separate), len(shared))
			}
		})
	}
}

// adversarial takes two steps of both networks and gives their weights, losses and gradient norms.
func (w *world) adversarial(form discriminator.Form, adam engine.Adam, share bool) engine.Tensors {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	optS, err := w.e.NewOptimizer(adam, w.bind[program.NetDenoiser])
	must(err)
	optD, err := w.e.NewOptimizer(adam, w.bind[program.NetDisc])
	must(err)
	var held int64
	results := engine.Tensors{}
	note := func(name string, r *engine.Result, err error) {
		w.t.Helper()
		must(err)
		loss, err := w.e.Floats(r.Outputs[0])
		must(err)
		norm2, err := r.Norm2()
		must(err)
		results[name] = []float32{loss[0], float32(norm2)}
		r.Free()
	}
	x := tinyInputs()[0]
	in, a, b, real := w.conditions(), w.vector(0.9, 0.8), w.vector(-0.3, 0.2), w.array(5, x...)
	view := []*engine.Array{w.vector(499, 249), w.array(7, x...), w.vector(0.9, 1), w.vector(0.2, 0)}
	for i := range 2 {
		step := engine.Step{LR: 1e-3 * float64(i+1)}
		var fake *adversarial.Fake
		if share {
			fake, err = adversarial.NewFake(w.f, w.e, w.bind, optS, 1, in, a, b)
		} else {
			fake, err = adversarial.NewFake(w.f, w.e, w.bind, optS, 2, in, a, b)
		}
		must(err)
		if kept := adversarial.SharesForward(w.e, map[bool]int{true: 1, false: 2}[share]); kept != share {
			w.t.Fatalf("the forward pass is kept: %t, want %t", kept, share)
		}
		r, err := w.e.Train(adversarial.Discriminator(w.f, adversarial.R1{}, form), w.bind, program.NetDisc, optD, step, append(inputs(in, real, fake.Sample), view...)...)
		note(fmt.Sprint("disc", i), r, err)
		fake.Shown()
		r, err = adversarial.GeneratorStep(w.f, w.e, w.bind, optS, step, form, fake, in, a, b, view)
		note(fmt.Sprint("gen", i), r, err)
		fake.Free()
		if live := w.e.Memory().Live; i > 0 && live != held {
			w.t.Errorf("%d bytes more are held after a step", live-held)
		} else {
			held = live
		}
	}
	if share { // dropped, as when the gate holds the student still
		fake, err := adversarial.NewFake(w.f, w.e, w.bind, optS, 1, in, a, b)
		must(err)
		fake.Shown()
		fake.Free()
		if live := w.e.Memory().Live; live != held {
			w.t.Errorf("%d bytes more are held after a pass was dropped", live-held)
		}
	}
	for _, n := range []string{program.NetDenoiser, program.NetDisc} {
		after, err := w.e.Download(w.bind[n], w.bind[n].Trained())
		must(err)
		for name, v := range after {
			results[n+"."+name] = v
		}
	}
	return results
}
