// Package family is what a method may ask of a kind of model: which network denoises, from which named conditions, and
// what a discriminator may see of it. Package distill and package train know no network beyond this.
package family

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Names of conditions.
const (
	Text   = "text"     // hidden states of a caption's tokens
	Pooled = "pooled"   // one vector of a whole caption
	Sizes  = "time_ids" // micro-conditions: original height and width, crop top and left, target height and width, in pixels
)

// Condition is something that a network is told about a sample, beside its noisy latents and their timestep.
type Condition struct {
	Name    string
	Dims    []int // of one sample
	Caption bool  // it follows from the caption, and guidance puts the empty prompt's in its place; else from sizes
}

// Size is the number of a sample's values.
func (c Condition) Size() int { return shapes.Make(dtypes.Float32, c.Dims...).Size() }

// Conditions are one sample's, flat, by name.
type Conditions map[string][]float32

// Denoiser is a network that predicts noise, v or x0. Its inputs are noisy latents [B, h, w, C], the network's index of
// their timestep [B] and then its conditions [B, …], in the order of Conditions; its output has the latents' shape, with
// the latents' dtype.
type Denoiser interface {
	// Conditions are what the network is told, for captions of so many tokens.
	Conditions(tokens int) []Condition

	// Channels is C of the latents that it takes, and Levels the number of its resolutions: latents' sides must be
	// multiples of 2^(Levels−1).
	Channels() int
	Levels() int

	// Network is the whole, with adapters where lora is not nil.
	Network(name string, lora *nn.LoRA) nn.Block

	Critic
	Linear
}

// Critic is the part of a denoiser that a discriminator takes for its backbone.
type Critic interface {
	// Encoder gives the innermost features [B, h', w', C'], EncoderLevels those of every resolution after them, from the
	// largest on.
	Encoder(name string) nn.Block
	EncoderLevels(name string) nn.Block

	// Widths are the channels C' of every resolution, the largest first; the innermost features have the last.
	Widths() []int

	// Groups is the number of groups of its group norms.
	Groups() int
}

// Linear is a denoiser whose last layer is a convolution, which a closed form can solve for.
type Linear interface {
	// Features is the network up to what the last convolution takes, in f32.
	Features(name string, lora *nn.LoRA) nn.Block

	// Patches are the last convolution's inputs, as Features gives them, as rows, one for each position.
	Patches(features *graph.Node) *graph.Node

	// Kernel is the last convolution's weight, in its own layout, from weights by patch [patch][out].
	Kernel(byPatch [][]float64) []float32

	// LastLayer names its weight and its bias.
	LastLayer() (weight, bias string)
}

// Places of the inputs that every denoiser has.
const (
	Sample = iota // noisy latents
	Time          // the network's index of their timestep
	Given         // the first condition
)

// Inputs are the shapes of a denoiser's inputs for latents of a height and a width.
func Inputs(d Denoiser, batch, height, width, tokens int) []shapes.Shape {
	in := []shapes.Shape{shapes.Make(dtypes.Float32, batch, height, width, d.Channels()), shapes.Make(dtypes.Float32, batch)}
	for _, c := range d.Conditions(tokens) {
		in = append(in, shapes.Make(dtypes.Float32, append([]int{batch}, c.Dims...)...))
	}
	return in
}

// Batch puts conditions of several samples, one behind the other, into the order of the network's inputs. What a sample
// lacks is zeros.
func Batch(told []Condition, samples []Conditions) ([][]float32, error) {
	out := make([][]float32, len(told))
	for k, c := range told {
		n := c.Size()
		out[k] = make([]float32, n*len(samples))
		for i, s := range samples {
			if v := s[c.Name]; len(v) != n && len(v) != 0 {
				return nil, fmt.Errorf("the network's condition %s takes %d values a sample, not %d", c.Name, n, len(v))
			}
			copy(out[k][i*n:], s[c.Name])
		}
	}
	return out, nil
}
