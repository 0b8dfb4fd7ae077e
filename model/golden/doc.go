// Package golden compares this project's networks with the libraries that they come from, against files written by
// generate.py with diffusers and transformers:
//
//   - parameter names and shapes, of small models and of SDXL's own,
//   - outputs to 1e-4 of the largest value, each network as one program and layer by layer, and in bf16 to 5e-2,
//   - the gradient by every parameter and input to 1e-3, through one program, and through the backward programs of
//     single blocks that training at layer granularity uses; the gradients of parameters as fingerprints (see
//     gradients_test.go), which keep the files small,
//   - activations beyond fp16's range.
//
// The discriminator, which no library has, is compared with a PyTorch module of its description.
package golden
