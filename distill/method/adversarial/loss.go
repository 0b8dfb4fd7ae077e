package adversarial

import (
	"fmt"
	"slices"

	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// R1 is an approximate R1 penalty: Weight·(ℓ(x) − ℓ(x + Sigma·noise))² of real samples x as the discriminator sees them, a
// finite difference in place of the gradient's norm, whose own gradient takes a second derivative. Weight 0 is none.
type R1 struct{ Weight, Sigma float64 }

// Discriminator is L_D (20) over real and fake. Inputs: the denoiser's at x_t, then real, fake, t' [B],
// noise, keep [B], add [B]: the discriminator sees keep·x + add·noise (3.7; keep = 1, add = 0 elsewhere), and with R1
// the penalty's noise.
// Outputs: loss, and the means over samples of what [Statistics] names.
func Discriminator(f *program.Functions, r1 R1, form discriminator.Form) engine.Function {
	difference := func(in []*graph.Node) *graph.Node { return graph.ReduceAllMean(graph.Square(graph.Sub(in[0], in[2]))) }
	loss := program.Op(fmt.Sprintf("loss_d(%g)", r1.Weight), func(in []*graph.Node) *graph.Node {
		l := graph.Add(graph.ReduceAllMean(nn.Softplus(graph.Neg(in[0]))), graph.ReduceAllMean(nn.Softplus(in[1])))
		if r1.Weight > 0 {
			l = graph.Add(l, graph.MulScalar(difference(in), r1.Weight))
		}
		return l
	})
	nudge := program.Op(fmt.Sprintf("nudge(%g)", r1.Sigma), func(in []*graph.Node) *graph.Node {
		return graph.Add(in[0], graph.MulScalar(in[1], r1.Sigma))
	})
	statistics := program.Op("pairs", func(in []*graph.Node) *graph.Node {
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
	key := "disc/" + string(form) + f.Signature(nil)
	if r1.Weight > 0 {
		key += fmt.Sprintf("r1(%g,%g)", r1.Weight, r1.Sigma)
	}
	return engine.Function{Key: key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		net, more := f.Split(in)
		real, fake, next, noise, keep, add := more[0], more[1], more[2], more[3], more[4], more[5]
		xs := []nn.Value{nn.One(r, program.Mix, real, keep, noise, add), nn.One(r, program.Mix, fake, keep, noise, add)}
		ts := []nn.Value{next, next}
		if r1.Weight > 0 {
			xs, ts = append(xs, nn.One(r, nudge, xs[0], more[6])), append(ts, next)
		}
		judged := len(xs)
		if form == discriminator.Conditional {
			xs, ts = append(xs, net[family.Sample]), append(ts, net[family.Time])
		}
		n := len(xs)
		stacked := program.Given(net, nn.One(r, program.Stack(n), xs...), nn.One(r, program.Stack(n), ts...))
		for i, v := range stacked[family.Given:] {
			stacked[family.Given+i] = nn.One(r, program.Stack(n), slices.Repeat([]nn.Value{v}, n)...)
		}
		features := r.Run(f.Disc.Backbone(program.NetDisc), stacked...)
		parts := func(v nn.Value, n int) []nn.Value {
			out := make([]nn.Value, judged)
			for i := range out {
				out[i] = nn.One(r, program.Part(i, n), v)
			}
			return out
		}
		var each []nn.Value
		for i, head := range f.Disc.Heads(program.NetDisc) {
			h := features[i]
			all := nn.One(r, program.Stack(judged), parts(h, n)...)
			if form == discriminator.Conditional {
				start := nn.One(r, program.Part(judged, n), h)
				all = nn.One(r, discriminator.Beside(), all, nn.One(r, program.Stack(judged), slices.Repeat([]nn.Value{start}, judged)...))
			}
			each = append(each, nn.One(r, head, all))
		}
		logits := parts(mean(r, each), judged)
		return []nn.Value{nn.One(r, loss, logits...), nn.One(r, statistics, logits...)}
	}}
}

// Statistics indexes the second output of Discriminator. Each is a mean over samples, so that
// those of micro-batches average.
const (
	StatAccuracy  = iota // share of logits, real and fake, of the right sign
	StatPaired           // share of samples with logit_real > logit_fake; ties count half
	StatGap              // logit_real − logit_fake
	StatGapSquare        // its square
	StatR1               // (ℓ(x) − ℓ(x + σ·noise))² of real samples; only with R1
	Statistics
)

// Generator is L_G (21) through the discriminator. Inputs: the denoiser's at x_t, then a, b, t', noise, keep, add.
func Generator(f *program.Functions, form discriminator.Form) engine.Function {
	return engine.Function{Key: "gen/" + string(form) + f.Signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		net, more := f.Split(in)
		return critique(f, r, form, slices.Concat([]nn.Value{f.Stepped(r, in)}, net, more[2:]))
	}}
}

// Critique is what Generator does behind Step. Inputs: fake, the denoiser's at x_t, then t', noise, keep,
// add.
func Critique(f *program.Functions, form discriminator.Form) engine.Function {
	return engine.Function{Key: "critique/" + string(form) + f.Signature(nil), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return critique(f, r, form, in)
	}}
}

func critique(f *program.Functions, r nn.Runner, form discriminator.Form, in []nn.Value) []nn.Value {
	loss := program.Op("loss_g", func(in []*graph.Node) *graph.Node {
		return graph.ReduceAllMean(nn.Softplus(graph.Neg(in[0])))
	})
	net, more := f.Split(in[1:])
	fake, next, noise, keep, add := in[0], more[0], more[1], more[2], more[3]
	features := r.Run(f.Disc.Backbone(program.NetDisc), program.Given(net, nn.One(r, program.Mix, fake, keep, noise, add), next)...)
	var start []nn.Value
	if form == discriminator.Conditional {
		start = r.Run(f.Disc.Backbone(program.NetDisc), net...)
	}
	var each []nn.Value
	for i, head := range f.Disc.Heads(program.NetDisc) {
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
	return nn.One(r, program.Op(fmt.Sprintf("mean(%d)", len(logits)), func(in []*graph.Node) *graph.Node {
		sum := in[0]
		for _, x := range in[1:] {
			sum = graph.Add(sum, x)
		}
		return graph.MulScalar(sum, 1/float64(len(in)))
	}), logits...)
}
