package distill

import "fewstep/model/process"

// The process that a model was trained on, under the names that the method's code has for it; see package process.
type (
	Schedule   = process.Schedule
	Prediction = process.Prediction
)

// What a network predicts.
const (
	Epsilon  = process.Epsilon
	Sample   = process.Sample
	Velocity = process.Velocity
)

// SDXLSchedule is that of SDXL, and of Stable Diffusion 1 and 2.
func SDXLSchedule() *Schedule { return process.SDXLSchedule() }
