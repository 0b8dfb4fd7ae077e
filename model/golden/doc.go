// Package golden compares this project's networks with the libraries that they come from: outputs, gradients,
// parameter names and shapes, against files written by generate.py with diffusers and transformers.
package golden
