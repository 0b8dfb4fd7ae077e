package engine_test

import (
	"context"
	"errors"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// A call, a training step, and compiling ahead return when the engine's context ends while a program compiles, which goes on.
func TestInterruptedWhileCompiling(t *testing.T) {
	for _, level := range []nn.Level{nn.Network, nn.Layer} {
		for name, use := range map[string]func(*engine.Engine) error{
			"call": func(e *engine.Engine) error {
				predict := engine.Function{Key: "predict", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(linear("net.one", 3), in[0]) }}
				_, err := e.Call(predict, engine.Bind{"net": perceptronParams(t, e)}, batch(t, e, 0.5)[0])
				return err
			},
			"train": func(e *engine.Engine) error {
				p := perceptronParams(t, e)
				o, err := e.NewOptimizer(engine.Adam{Beta2: 0.99}, p)
				if err == nil {
					_, err = e.Train(perceptron(), engine.Bind{"net": p}, "net", o, engine.Step{LR: 0.1}, batch(t, e, 0.5)...)
				}
				return err
			},
			"ahead": func(of *engine.Engine) error {
				return of.Ahead(of.Context, func(e *engine.Engine) error {
					predict := engine.Function{Key: "ahead", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(linear("net.one", 3), in[0]) }}
					_, err := e.Call(predict, engine.Bind{"net": perceptronParams(t, e)}, batch(t, e, 0.5)[0])
					if err == nil {
						<-of.Context.Done()
						err = of.Context.Err()
					}
					return err
				})
			},
		} {
			stuck := xlatest.NewStuck(t, runtime.Backend)
			ctx, stop := context.WithCancel(t.Context())
			e := engine.New(stuck, dtypes.Float32, level)
			e.Context = ctx
			ended := make(chan error)
			go func() { ended <- use(e) }()
			stuck.Compiling()
			stop()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("%s at granularity %d: %v", name, level, err)
			}
		}
	}
}

// Loading a network ends with the engine's context.
func TestLoadingInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	e := engine.New(runtime.Backend, dtypes.Float32, nn.Network)
	e.Context = ctx
	specs := []nn.Spec{{Name: "a", Dims: []int{2}}, {Name: "b", Dims: []int{2}}}
	value := func(nn.Spec) ([]float32, error) { return []float32{1, 2}, nil }
	if _, err := e.LoadFunc(specs, value, nil); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := e.LoadFunc(specs, value, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("loading went on: %v", err)
	}
}
