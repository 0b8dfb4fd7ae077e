// Package distill is the method: progressive adversarial diffusion
// distillation, after "SDXL-Lightning: Progressive Adversarial Diffusion
// Distillation" (arXiv 2402.13929). Numbers in parentheses are the paper's
// equations and sections.
//
// It holds the intervals that student and teacher walk (walk.go), the
// objectives (objective.go), the randomness (random.go) and the ladder of
// stages and phases (ladder*.go), which is laid out from a recipe of package
// configs. The noise schedule and its conversions are the model's: package
// process.
//
// Nothing here knows of graphs or devices. Every formula is linear in its
// tensors with scalar coefficients per sample, so the training programs take
// the coefficients from here and apply them; the functions on slices are the
// same formulas for tests and small tools.
//
// # Timesteps
//
// Timesteps are the paper's: 1..T, with T = 1000 for SDXL, and t = 0 for clean
// data. The index fed to a network is [Schedule.NetworkIndex], t − 1.
package distill
