// Package program is what the methods' engine functions are made of: network calls and deterministic steps over networks
// written against nn.Runner. Schedule and timesteps enter as per-sample coefficients (see distill), so that every
// stage and phase of the ladder uses the same few programs.
package program

import (
	"fmt"

	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// Networks that the functions below refer to.
const (
	NetDenoiser = "unet" // the student where something is trained, else whatever model is called
	NetDisc     = "disc"
)

// Functions builds the engine functions of one architecture. Every stage and phase uses the same few: timesteps and
// schedule enter as per-sample coefficients, so no program depends on a stage.
type Functions struct {
	Denoiser family.Denoiser
	Disc     *discriminator.Config
	LoRA     *nn.LoRA // adapters on the trained student; nil = full
}

// Split parts a function's inputs into those of the denoiser, which come first, and what follows.
func (f *Functions) Split(in []nn.Value) (net, more []nn.Value) {
	n := family.Given + len(f.Denoiser.Conditions(1))
	return in[:n], in[n:]
}

// Given are a denoiser's inputs with other latents and another time.
func Given(net []nn.Value, x, t nn.Value) []nn.Value {
	return append([]nn.Value{x, t}, net[family.Given:]...)
}

// Op is a block of one output without parameters.
func Op(kind string, f func(in []*graph.Node) *graph.Node) nn.Block {
	return nn.Block{Kind: kind, Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{f(in)}
	}}
}

// Mix is a·x + b·u with per-sample coefficients: a move (5), or forward (1).
var Mix = Op("blend", func(in []*graph.Node) *graph.Node {
	return graph.Add(nn.Scale(in[0], in[1]), nn.Scale(in[2], in[3]))
})

// guide is classifier-free guidance.
var guide = Op("guidance", func(in []*graph.Node) *graph.Node {
	return graph.Add(in[1], nn.Scale(graph.Sub(in[0], in[1]), in[2]))
})

// Stack concatenates along the batch.
func Stack(n int) nn.Block {
	return Op(fmt.Sprintf("stack(%d)", n), func(in []*graph.Node) *graph.Node { return graph.Concatenate(in, 0) })
}

// Part is sample range [i·B/n, (i+1)·B/n) of a stacked batch.
func Part(i, n int) nn.Block {
	return Op(fmt.Sprintf("part(%d,%d)", i, n), func(in []*graph.Node) *graph.Node {
		b := in[0].Shape().Dim(0) / n
		return graph.SliceAxis(in[0], 0, graph.AxisRange(i*b, (i+1)*b))
	})
}

// Predict is one network call, adapters included: the denoiser's inputs → u.
func (f *Functions) Predict() engine.Function {
	return engine.Function{Key: "predict/" + f.Signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(f.Denoiser.Network(NetDenoiser, f.LoRA), in...)
	}}
}

// Blend is a·x + b·u with per-sample coefficients: a deterministic step (5), given the prediction.
func Blend() engine.Function {
	return engine.Function{Key: "blend", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(Mix, in...) }}
}

// Guide is classifier-free guidance: u_∅ + g·(u_c − u_∅), from u_c, u_∅ and g [B].
func Guide() engine.Function {
	return engine.Function{Key: "guide", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(guide, in...) }}
}

// Step is the student's deterministic step (5): a·x_t + b·f(x_t). Inputs: the denoiser's at x_t, then
// a, b.
func (f *Functions) Step() engine.Function {
	return engine.Function{Key: "step/" + f.Signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return []nn.Value{f.Stepped(r, in)}
	}}
}

// Stepped is Step's output.
func (f *Functions) Stepped(r nn.Runner, in []nn.Value) nn.Value {
	net, more := f.Split(in)
	return nn.One(r, Mix, net[family.Sample], more[0], nn.One(r, f.Denoiser.Network(NetDenoiser, f.LoRA), net...), more[1])
}

// Signature tells the networks apart in functions' keys.
func (f *Functions) Signature(lora *nn.LoRA) string {
	s := f.Denoiser.Network("", nil).Kind
	if f.Disc != nil {
		s += f.Disc.Head("").Kind + adapters(f.Disc.LoRA)
		if f.Disc.Levels {
			s += "levels"
		}
	}
	return s + adapters(lora)
}

func adapters(lora *nn.LoRA) string {
	if lora == nil {
		return ""
	}
	return fmt.Sprintf("lora(%d,%g)", lora.Rank, lora.Scale)
}
