// Package mse is distillation by the mean squared error between the student's step and the teacher's calls.
package mse

import (
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Method trains by (16).
type Method struct{}

// Draw adds nothing.
func (Method) Draw(*distill.Sampler, *distill.Batch, int64) error { return nil }

// Update moves the student towards the teacher's x_{t'}.
func (Method) Update(s *method.Session) error {
	batches, err := s.Batches()
	if err != nil {
		return err
	}
	defer method.Release(batches)
	for i := range s.Micros() {
		b := batches[i]
		if err := s.Train(method.Student, Loss(s.Programs), i, []string{method.Loss}, b.At(b.X, b.T, b.A, b.B, b.Target)...); err != nil {
			return err
		}
	}
	return nil
}

// Loss is ‖a·x + b·f(x) − target‖² as a mean over elements (16); with a = 0, b = 1 and an x0 target it is the
// conversion (29), see package x0. Inputs: the denoiser's, then a, b, target.
func Loss(f *program.Functions) engine.Function {
	loss := program.Op("mse", func(in []*graph.Node) *graph.Node {
		d := graph.ConvertDType(graph.Sub(in[0], in[1]), dtypes.Float32)
		return graph.ReduceAllMean(graph.Square(d))
	})
	return engine.Function{Key: "mse/" + f.Signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		_, more := f.Split(in)
		return r.Run(loss, f.Stepped(r, in), more[2])
	}}
}
