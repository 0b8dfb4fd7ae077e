// Package distill is the method: progressive adversarial diffusion
// distillation, after "SDXL-Lightning: Progressive Adversarial Diffusion
// Distillation" (arXiv 2402.13929). Numbers in parentheses are the paper's
// equations and sections.
//
// It holds the intervals that student and teacher walk (walk.go), the
// micro-batches (batch.go), the randomness (random.go) and the ladder of stages
// and phases (ladder*.go), which is laid out from a recipe of package configs.
// The noise schedule and its conversions are the model's: package process.
//
// Nothing here knows of graphs or devices. Every formula is linear in its
// tensors with scalar coefficients per sample: training takes the coefficients
// from here and applies them in package program; the losses are in the folders
// of the methods, below method.
//
// # Equations
//
// Each equation is computed in one place, which training runs:
//
//	(1)              [Schedule.ForwardCoefficients], applied by method.Host.Noise
//	(3) (4)          [Schedule.X0Coefficients], [Schedule.EpsilonCoefficients]
//	(5)              [Schedule.MoveCoefficients], applied by program.Blend
//	guidance         program.Guide
//	(16)             method/mse, Loss
//	(20)             method/adversarial, Discriminator
//	(21)             method/adversarial, Generator and Critique
//	(22) (23)        the form that these are given
//	(29)             method/x0, Draw, with the loss of method/mse
//	(3.5)            [Schedule.ForwardCoefficients]
//	(3.7)            [Schedule.StudentTimesteps], [Schedule.DiscriminatorView]
//
// # Timesteps
//
// Timesteps are the paper's: 1..T, with T = 1000 for SDXL, and t = 0 for clean
// data. The index fed to a network is [Schedule.NetworkIndex], t − 1.
package distill
