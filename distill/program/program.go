// Package program is the method as engine functions: network calls, deterministic steps and losses over networks
// written against nn.Runner. Schedule and timesteps enter as per-sample coefficients (see distill), so that every
// stage and phase of the ladder uses the same few programs.
package program

import (
	"fmt"
	"slices"

	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Networks that the functions below refer to.
const (
	NetUNet = "unet" // the student where something is trained, else whatever model is called
	NetDisc = "disc"
)

// Functions builds the engine functions of one architecture. Every stage and phase uses the same few: timesteps and
// schedule enter as per-sample coefficients, so no program depends on a stage.
type Functions struct {
	UNet family.Denoiser
	Disc *discriminator.Config
	LoRA *nn.LoRA // adapters on the trained student; nil = full
	R1   R1       // of the discriminator
}

// R1 is an approximate R1 penalty: Weight·(ℓ(x) − ℓ(x + Sigma·noise))² of real samples x as the discriminator sees them, a
// finite difference in place of the gradient's norm, whose own gradient takes a second derivative. Weight 0 is none.
type R1 struct{ Weight, Sigma float64 }

// split parts a function's inputs into those of the denoiser, which come first, and what follows.
func (f *Functions) split(in []nn.Value) (net, more []nn.Value) {
	n := family.Given + len(f.UNet.Conditions(1))
	return in[:n], in[n:]
}

// given are a denoiser's inputs with other latents and another time.
func given(net []nn.Value, x, t nn.Value) []nn.Value {
	return append([]nn.Value{x, t}, net[family.Given:]...)
}

func op(kind string, f func(in []*graph.Node) *graph.Node) nn.Block {
	return nn.Block{Kind: kind, Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{f(in)}
	}}
}

// blend is a·x + b·u with per-sample coefficients: a move (5), or forward (1).
var blend = op("blend", func(in []*graph.Node) *graph.Node {
	return graph.Add(nn.Scale(in[0], in[1]), nn.Scale(in[2], in[3]))
})

// guide is classifier-free guidance.
var guide = op("guidance", func(in []*graph.Node) *graph.Node {
	return graph.Add(in[1], nn.Scale(graph.Sub(in[0], in[1]), in[2]))
})

// stack concatenates along the batch.
func stack(n int) nn.Block {
	return op(fmt.Sprintf("stack(%d)", n), func(in []*graph.Node) *graph.Node { return graph.Concatenate(in, 0) })
}

// part is sample range [i·B/n, (i+1)·B/n) of a stacked batch.
func part(i, n int) nn.Block {
	return op(fmt.Sprintf("part(%d,%d)", i, n), func(in []*graph.Node) *graph.Node {
		b := in[0].Shape().Dim(0) / n
		return graph.SliceAxis(in[0], 0, graph.AxisRange(i*b, (i+1)*b))
	})
}

// Predict is one network call, adapters included: the denoiser's inputs → u.
func (f *Functions) Predict() engine.Function {
	return engine.Function{Key: "predict/" + f.signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(f.UNet.Network(NetUNet, f.LoRA), in...)
	}}
}

// Blend is a·x + b·u with per-sample coefficients: a deterministic step (5), given the prediction.
func Blend() engine.Function {
	return engine.Function{Key: "blend", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(blend, in...) }}
}

// Guide is classifier-free guidance: u_∅ + g·(u_c − u_∅), from u_c, u_∅ and g [B].
func Guide() engine.Function {
	return engine.Function{Key: "guide", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(guide, in...) }}
}

// MSE is ‖a·x + b·f(x) − target‖² as a mean over elements (16); with a = 0, b = 1 and an x0 target it is the
// conversion (29). Inputs: the denoiser's, then a, b, target.
func (f *Functions) MSE() engine.Function {
	loss := op("mse", func(in []*graph.Node) *graph.Node {
		d := graph.ConvertDType(graph.Sub(in[0], in[1]), dtypes.Float32)
		return graph.ReduceAllMean(graph.Square(d))
	})
	return engine.Function{Key: "mse/" + f.signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		_, more := f.split(in)
		return r.Run(loss, f.step(r, in), more[2])
	}}
}

// Discriminator is L_D (20) over real and fake. Inputs: the denoiser's at x_t, then real, fake, t' [B],
// noise, keep [B], add [B]: the discriminator sees keep·x + add·noise (3.7; keep = 1, add = 0 elsewhere), and with R1
// the penalty's noise.
// Outputs: loss, and the means over samples of what [DiscriminatorStatistics] names.
func (f *Functions) Discriminator(form discriminator.Form) engine.Function {
	difference := func(in []*graph.Node) *graph.Node { return graph.ReduceAllMean(graph.Square(graph.Sub(in[0], in[2]))) }
	loss := op(fmt.Sprintf("loss_d(%g)", f.R1.Weight), func(in []*graph.Node) *graph.Node {
		l := graph.Add(graph.ReduceAllMean(nn.Softplus(graph.Neg(in[0]))), graph.ReduceAllMean(nn.Softplus(in[1])))
		if f.R1.Weight > 0 {
			l = graph.Add(l, graph.MulScalar(difference(in), f.R1.Weight))
		}
		return l
	})
	nudge := op(fmt.Sprintf("nudge(%g)", f.R1.Sigma), func(in []*graph.Node) *graph.Node {
		return graph.Add(in[0], graph.MulScalar(in[1], f.R1.Sigma))
	})
	statistics := op("pairs", func(in []*graph.Node) *graph.Node {
		gap := graph.Sub(in[0], in[1])
		zero := graph.ZerosLike(gap)
		share := func(holds *graph.Node) *graph.Node {
			return graph.ReduceAllMean(graph.ConvertDType(holds, dtypes.Float32))
		}
		both := func(a, b *graph.Node) *graph.Node { return graph.MulScalar(graph.Add(share(a), share(b)), 0.5) }
		all := []*graph.Node{
			both(graph.GreaterThan(in[0], zero), graph.LessThan(in[1], zero)),
			both(graph.GreaterThan(gap, zero), graph.GreaterOrEqual(gap, zero)), // a tie is half right
			graph.ReduceAllMean(gap), graph.ReduceAllMean(graph.Square(gap)),
		}
		if len(in) > 2 {
			all = append(all, difference(in))
		}
		for i := range all {
			all[i] = graph.Reshape(all[i], 1)
		}
		return graph.Concatenate(all, 0)
	})
	key := "disc/" + string(form) + f.signature(nil)
	if f.R1.Weight > 0 {
		key += fmt.Sprintf("r1(%g,%g)", f.R1.Weight, f.R1.Sigma)
	}
	return engine.Function{Key: key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		net, more := f.split(in)
		real, fake, next, noise, keep, add := more[0], more[1], more[2], more[3], more[4], more[5]
		xs := []nn.Value{nn.One(r, blend, real, keep, noise, add), nn.One(r, blend, fake, keep, noise, add)}
		ts := []nn.Value{next, next}
		if f.R1.Weight > 0 {
			xs, ts = append(xs, nn.One(r, nudge, xs[0], more[6])), append(ts, next)
		}
		judged := len(xs)
		if form == discriminator.Conditional {
			xs, ts = append(xs, net[family.Sample]), append(ts, net[family.Time])
		}
		n := len(xs)
		stacked := given(net, nn.One(r, stack(n), xs...), nn.One(r, stack(n), ts...))
		for i, v := range stacked[family.Given:] {
			stacked[family.Given+i] = nn.One(r, stack(n), slices.Repeat([]nn.Value{v}, n)...)
		}
		features := r.Run(f.Disc.Backbone(NetDisc), stacked...)
		parts := func(v nn.Value, n int) []nn.Value {
			out := make([]nn.Value, judged)
			for i := range out {
				out[i] = nn.One(r, part(i, n), v)
			}
			return out
		}
		var each []nn.Value
		for i, head := range f.Disc.Heads(NetDisc) {
			h := features[i]
			all := nn.One(r, stack(judged), parts(h, n)...)
			if form == discriminator.Conditional {
				start := nn.One(r, part(judged, n), h)
				all = nn.One(r, discriminator.Beside(), all, nn.One(r, stack(judged), slices.Repeat([]nn.Value{start}, judged)...))
			}
			each = append(each, nn.One(r, head, all))
		}
		logits := parts(mean(r, each), judged)
		return []nn.Value{nn.One(r, loss, logits...), nn.One(r, statistics, logits...)}
	}}
}

// DiscriminatorStatistics indexes the second output of Functions.Discriminator. Each is a mean over samples, so that
// those of micro-batches average.
const (
	StatAccuracy  = iota // share of logits, real and fake, of the right sign
	StatPaired           // share of samples with logit_real > logit_fake; ties count half
	StatGap              // logit_real − logit_fake
	StatGapSquare        // its square
	StatR1               // (ℓ(x) − ℓ(x + σ·noise))² of real samples; only with R1
	DiscriminatorStatistics
)

// Generator is L_G (21) through the discriminator. Inputs: the denoiser's at x_t, then a, b, t', noise, keep, add.
func (f *Functions) Generator(form discriminator.Form) engine.Function {
	return engine.Function{Key: "gen/" + string(form) + f.signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		net, more := f.split(in)
		return f.critique(r, form, slices.Concat([]nn.Value{f.step(r, in)}, net, more[2:]))
	}}
}

// Step is the student's deterministic step (5), for Critique: a·x_t + b·f(x_t). Inputs: the denoiser's at x_t, then
// a, b.
func (f *Functions) Step() engine.Function {
	return engine.Function{Key: "step/" + f.signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return []nn.Value{f.step(r, in)}
	}}
}

func (f *Functions) step(r nn.Runner, in []nn.Value) nn.Value {
	net, more := f.split(in)
	return nn.One(r, blend, net[family.Sample], more[0], nn.One(r, f.UNet.Network(NetUNet, f.LoRA), net...), more[1])
}

// Critique is what Generator does behind Step. Inputs: fake, the denoiser's at x_t, then t', noise, keep,
// add.
func (f *Functions) Critique(form discriminator.Form) engine.Function {
	return engine.Function{Key: "critique/" + string(form) + f.signature(nil), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return f.critique(r, form, in)
	}}
}

func (f *Functions) critique(r nn.Runner, form discriminator.Form, in []nn.Value) []nn.Value {
	loss := op("loss_g", func(in []*graph.Node) *graph.Node {
		return graph.ReduceAllMean(nn.Softplus(graph.Neg(in[0])))
	})
	net, more := f.split(in[1:])
	fake, next, noise, keep, add := in[0], more[0], more[1], more[2], more[3]
	features := r.Run(f.Disc.Backbone(NetDisc), given(net, nn.One(r, blend, fake, keep, noise, add), next)...)
	var start []nn.Value
	if form == discriminator.Conditional {
		start = r.Run(f.Disc.Backbone(NetDisc), net...)
	}
	var each []nn.Value
	for i, head := range f.Disc.Heads(NetDisc) {
		h := features[i]
		if start != nil {
			h = nn.One(r, discriminator.Beside(), h, start[i])
		}
		each = append(each, nn.One(r, head, h))
	}
	return r.Run(loss, mean(r, each))
}

// mean is that of the logits of several heads.
func mean(r nn.Runner, logits []nn.Value) nn.Value {
	if len(logits) == 1 {
		return logits[0]
	}
	return nn.One(r, op(fmt.Sprintf("mean(%d)", len(logits)), func(in []*graph.Node) *graph.Node {
		sum := in[0]
		for _, x := range in[1:] {
			sum = graph.Add(sum, x)
		}
		return graph.MulScalar(sum, 1/float64(len(in)))
	}), logits...)
}

func (f *Functions) signature(lora *nn.LoRA) string {
	s := f.UNet.Network("", nil).Kind
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
