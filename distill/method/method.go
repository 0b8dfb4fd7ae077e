// Package method is what all methods have in common: a method trains a student by updates, each over the networks that the
// phase has by role, on micro-batches that the session gives. A method is a folder below this one and is written once: training,
// the planner, the compiling ahead of training and the benchmark all run its Update, on different devices.
//
// # Adding a method
//
// Write a folder with a Method, an entry in the recipe's table (package configs, methods.go) and one in package methods.
package method

import (
	"fewstep/distill"
)

// Method is a way to train a student. It has no state: what an update depends on is in the session.
type Method interface {
	// Draw completes the micro-batch of the samples from first on, which has t, t', x_t's coefficients, the student's step
	// (5) and the stage's teacher's calls. It may change them, and adds what the method needs beside.
	Draw(p *distill.Sampler, b *distill.Batch, first int64) error

	// Update queues one optimizer update of each network that is trained.
	Update(s *Session) error
}

// Teller is a method that derives the numbers it reports from its update's outputs. Tell changes them in place after they were
// read from the device; they are means over the given number of samples.
type Teller interface {
	Tell(s *Session, values map[string]float64, samples int)
}

// Role is what a network is for in a phase.
type Role string

const (
	Student       Role = "student"       // trained
	Teacher       Role = "teacher"       // frozen
	Discriminator Role = "discriminator" // trained to tell the student's samples from the teacher's
)

// Names of numbers that mean the same in every method.
const (
	Loss   = "loss"   // of the student, where there is one
	LossD  = "loss_d" // of the discriminator
	LossG  = "loss_g" // of the student by the discriminator
	Paired = "paired" // share of samples whose real logit exceeds the fake one, which gates look at
)
