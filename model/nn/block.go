// Package nn describes networks as blocks: pure functions from tensors and named parameters to tensors.
//
// A network is written once, against [Runner]. What a Runner does with a block is its own affair: the inline
// runner ([Inline]) adds the block's operations to the graph being built, the engine's tape runs a compiled
// program and remembers the inputs for the backward walk, and [Trace] only lists the parameters.
//
// Activations are NHWC or [batch, tokens, width]; parameters keep PyTorch's layouts and diffusers' names.
package nn

import (
	"strings"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Value is what flows between blocks: a graph node while building, a device array while running.
type Value interface {
	Shape() shapes.Shape
}

// Level says how coarse a block is. A runner whose granularity is at least a block's level treats it as one program.
type Level int

// Levels from fine to coarse.
const (
	Layer   Level = iota // one resnet, one transformer, one convolution
	Stage                // a down, mid or up block with everything in it
	Network              // a whole network
)

// Block is one pure function of its inputs and of the parameters below Name.
// Exactly one of Build and Compose is set.
type Block struct {
	Kind  string // identity of the function: code and every static setting; equal kinds must build equal graphs
	Name  string // parameter scope relative to the enclosing block, e.g. "down_blocks.0.resnets.1"
	Level Level
	LoRA  *LoRA // on a network: adapters on every linear and convolution below it that is not Plain
	Plain bool  // no adapters here, whatever the network says

	Build   func(s *Scope, in []*graph.Node) []*graph.Node // one program
	Compose func(r Runner, in []Value) []Value             // made of smaller blocks
}

// Runner evaluates blocks.
type Runner interface {
	Run(b Block, in ...Value) []Value
}

// LoRA is a low-rank adapter setting: W' = W + Scale * up∘down, named weight key + ".lora_down" / ".lora_up".
type LoRA struct {
	Rank  int
	Scale float64 // alpha / rank
}

// IsLoRA says whether a parameter is an adapter's factor.
func IsLoRA(name string) bool {
	return strings.HasSuffix(name, ".lora_down") || strings.HasSuffix(name, ".lora_up")
}

// Init says how a fresh parameter is filled.
type Init int

// Initialisations of fresh parameters.
const (
	Zeros      Init = iota
	Ones            // norms' gains
	FanIn           // uniform in ±1/sqrt(fan in), PyTorch's default for linear and convolution
	Normal002       // normal, deviation 0.02 (embeddings)
	FanInLoRA       // kaiming-uniform down projection, as peft
	LogitScale      // the constant ln(1/0.07)
)

// Spec is a parameter that a block asks for.
type Spec struct {
	Name string // full name below the network
	Dims []int
	Init Init
	Wide bool // kept in f32, whatever dtype frozen weights are kept in
}

// Size is the number of elements.
func (s Spec) Size() int {
	n := 1
	for _, d := range s.Dims {
		n *= d
	}
	return n
}

// One runs a block that has a single output.
func One(r Runner, b Block, in ...Value) Value { return r.Run(b, in...)[0] }
