// Package x0 converts a student to x0-prediction, which a one-step student needs (3.7).
package x0

import (
	"fewstep/distill"
	"fewstep/distill/method/mse"
)

// Method trains by (29): the student's output is to be the x0 that the frozen network's output implies.
type Method struct{ mse.Method }

// Draw makes the frozen network's x0 the teacher's only call, and the student's output its step.
func (Method) Draw(p *distill.Sampler, b *distill.Batch, _ int64) error {
	n := len(b.T)
	call := distill.WalkCall{At: b.T, To: make([]int, n), A: make([]float64, n), B: make([]float64, n)}
	for i, t := range b.T {
		call.A[i], call.B[i] = p.Schedule.X0Coefficients(p.Step.Teacher.Prediction, t)
		b.StudentA[i], b.StudentB[i] = 0, 1
	}
	b.Teacher = []distill.WalkCall{call}
	return nil
}
