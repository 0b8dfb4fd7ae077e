package distill

import "fewstep/model/process"

// What tests of the method need of the process, under short names.
var (
	NewSchedule     = process.NewSchedule
	ParseScheduler  = process.ParseScheduler
	ParsePrediction = process.ParsePrediction
)
