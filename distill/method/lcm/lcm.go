// Package lcm is latent consistency distillation: the student learns to jump from anywhere on the teacher's trajectory to its
// end, by giving the same answer at neighbouring points of it (Luo et al., "Latent Consistency Models", arXiv 2310.04378,
// algorithm 1; Luo et al., "LCM-LoRA", arXiv 2311.05556, where the student is adapters).
//
// With T/M the stride of a teacher of M steps (the paper's skipping interval k; 20 for M = 50), t on its grid and
// t' = t − T/M:
//
//	x_t   = forward(x0, ε, t)
//	x̂_t'  = move(x_t, u_∅ + g·(u_c − u_∅), t, t')      one guided DDIM step of the teacher; the paper's w is g − 1
//	loss  = d(f_θ(x_t, t), f_θ⁻(x̂_t', t'))              θ⁻ is an average of θ, or θ itself, without a gradient
//	f     = c_skip·x_t + c_out·x0(x_t, u)               which is x_t at the boundary
//	d     = mean(√(r² + c²) − c), or mean(r²)           of the residuals r; the pseudo-Huber loss, c = 0.001
//
// Where the paper embeds w for the student to see, the student here is not told it, as in diffusers' script for SDXL and in
// LCM-LoRA: the network keeps its inputs. Clean data is t = 0 with ā = 1; diffusers takes ā_1 for it.
package lcm

import (
	"fmt"

	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Method trains by consistency.
type Method struct{}

// Names of what the method adds to a micro-batch: what the target network makes of x̂_t'.
const (
	targetT = "target t"
	targetA = "target a"
	targetB = "target b"
)

// Draw makes the student's step a consistency model's sample at t, adds the target's at t', and draws the guidance.
func (Method) Draw(p *distill.Sampler, b *distill.Batch, first int64) error {
	n, pred := len(b.T), p.Step.Prediction
	a, u := make([]float64, n), make([]float64, n)
	for i, t := range b.T {
		b.StudentA[i], b.StudentB[i] = p.Schedule.ConsistencyCoefficients(pred, t)
		a[i], u[i] = p.Schedule.ConsistencyCoefficients(pred, b.TNext[i])
	}
	b.Columns = []distill.Column{{Name: targetT, At: b.TNext}, {Name: targetA, Values: a}, {Name: targetB, Values: u}}
	if to := p.Stage.Phases[p.Step.Phase].GuidanceTo; to > 0 {
		b.Guidance = make([]float64, n)
		for i := range b.Guidance {
			b.Guidance[i] = p.Step.Guidance + (to-p.Step.Guidance)*distill.Uniform(p.Seed, distill.GuidanceScale, first+int64(i), 0)
		}
	}
	return nil
}

// Update moves the student towards what the target network makes of the teacher's step.
func (Method) Update(s *method.Session) error {
	batches, err := s.Batches()
	if err != nil {
		return err
	}
	defer method.Release(batches)
	target, free, err := s.Target()
	if err != nil {
		return err
	}
	defer free()
	for i := range s.Micros() {
		b := batches[i]
		goal, err := s.Programs.Move(s.Engine, target, b.At(b.Target, b.More[targetT]), b.More[targetA], b.More[targetB], nil)
		if err != nil {
			return err
		}
		err = s.Train(method.Student, Loss(s.Programs, s.Phase.Huber), i, []string{method.Loss}, b.At(b.X, b.T, b.A, b.B, goal)...)
		goal.Free()
		if err != nil {
			return err
		}
	}
	return nil
}

// Loss is the distance of a·x + b·f(x) from a goal, as a mean over elements: the pseudo-Huber loss √(r² + c²) − c, or the
// square where c is 0. Inputs: the denoiser's, then a, b, goal.
func Loss(f *program.Functions, c float64) engine.Function {
	distance := program.Op(fmt.Sprintf("consistency(%g)", c), func(in []*graph.Node) *graph.Node {
		square := graph.Square(graph.ConvertDType(graph.Sub(in[0], in[1]), dtypes.Float32))
		if c == 0 {
			return graph.ReduceAllMean(square)
		}
		return graph.AddScalar(graph.ReduceAllMean(graph.Sqrt(graph.AddScalar(square, c*c))), -c)
	})
	return engine.Function{Key: fmt.Sprintf("consistency(%g)/%s", c, f.Signature(f.LoRA)), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		_, more := f.Split(in)
		return r.Run(distance, f.Stepped(r, in), more[2])
	}}
}
