package program

import (
	"slices"

	"fewstep/engine"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// Guidance is classifier-free guidance of a batch, on the device.
type Guidance struct {
	Scale *engine.Array   // g [B]
	Empty []*engine.Array // what the empty prompt makes of the conditions that follow from captions, in their order; nil = zeros
}

// Free gives its arrays back. Of nil there are none.
func (g *Guidance) Free() {
	if g != nil {
		engine.Free(g.Scale)
		engine.Free(g.Empty...)
	}
}

// captions are the places, among a denoiser's inputs, of the conditions that follow from captions.
func (f *Functions) captions() (places []int) {
	for i, c := range f.Denoiser.Conditions(1) {
		if c.Caption {
			places = append(places, family.Given+i)
		}
	}
	return places
}

// Move is one deterministic step (5) of a model: in are its inputs, a and b [B] the step's coefficients. g may be nil.
func (f *Functions) Move(e *engine.Engine, model *engine.Params, in []*engine.Array, a, b *engine.Array, g *Guidance) (*engine.Array, error) {
	bind := engine.Bind{NetDenoiser: model}
	if g != nil && guidesTogether(e) {
		return one(e.Call(f.Guided(g.Empty != nil), bind, slices.Concat(in, []*engine.Array{a, b, g.Scale}, g.Empty)...))
	}
	if g == nil {
		u, err := one(e.Call(f.Predict(), bind, in...))
		if err != nil {
			return nil, err
		}
		defer u.Free()
		return one(e.Call(Blend(), nil, in[family.Sample], a, u, b))
	}
	places, empty, put := f.captions(), slices.Clone(in), g.Empty
	if put == nil {
		var told []*engine.Array
		for _, i := range places {
			told = append(told, in[i])
		}
		var err error
		if put, err = e.Call(zeros, nil, told...); err != nil {
			return nil, err
		}
		defer engine.Free(put...)
	}
	for k, i := range places {
		empty[i] = put[k]
	}
	return f.MoveAway(e, model, in, empty, a, b, g.Scale)
}

// zeros are made on the device: an upload would wait for it.
var zeros = engine.Function{Key: "empty prompt", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
	return r.Run(nn.Block{Kind: "zeros", Build: func(_ *nn.Scope, in []*graph.Node) (out []*graph.Node) {
		for _, x := range in {
			out = append(out, graph.ZerosLike(x))
		}
		return out
	}}, in...)
}}

// MoveAway is a guided Move whose guidance leads away from the model's prediction for other inputs. It makes two calls.
func (f *Functions) MoveAway(e *engine.Engine, model *engine.Params, in, from []*engine.Array, a, b, scale *engine.Array) (*engine.Array, error) {
	bind := engine.Bind{NetDenoiser: model}
	u, err := one(e.Call(f.Predict(), bind, in...))
	if err != nil {
		return nil, err
	}
	defer u.Free()
	without, err := one(e.Call(f.Predict(), bind, from...))
	if err != nil {
		return nil, err
	}
	defer without.Free()
	guided, err := one(e.Call(Guide(), nil, u, without, scale))
	if err != nil {
		return nil, err
	}
	defer guided.Free()
	return one(e.Call(Blend(), nil, in[family.Sample], a, guided, b))
}

// guidesTogether says whether a guided call is one call of twice the batch: on devices, which small batches leave idle.
// At granularity network (CPUs) it is two calls, which share one program with calls that are not guided.
func guidesTogether(e *engine.Engine) bool { return e.Granularity < nn.Network }

// Guided is a guided Move in one: the denoiser's inputs, a, b, g → a·x + b·(u_∅ + g·(u_c − u_∅)), u_c and u_∅ by one
// network call of twice the batch. Where the empty prompt is encoded, what it makes of the conditions that follow from
// captions comes after g; else they are zeros.
func (f *Functions) Guided(encoded bool) engine.Function {
	beside := Op("beside_empty", func(in []*graph.Node) *graph.Node {
		return graph.Concatenate([]*graph.Node{in[0], graph.ZerosLike(in[0])}, 0)
	})
	key := "guided/"
	if encoded {
		key = "guided from encoded/"
	}
	return engine.Function{Key: key + f.Signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		net, more := f.Split(in)
		twice, places := make([]nn.Value, len(net)), f.captions()
		for i, v := range net {
			switch k := slices.Index(places, i); {
			case k < 0:
				twice[i] = nn.One(r, Stack(2), v, v)
			case encoded:
				twice[i] = nn.One(r, Stack(2), v, more[3+k])
			default:
				twice[i] = nn.One(r, beside, v)
			}
		}
		u := nn.One(r, f.Denoiser.Network(NetDenoiser, f.LoRA), twice...)
		guided := nn.One(r, guide, nn.One(r, Part(0, 2), u), nn.One(r, Part(1, 2), u), more[2])
		return r.Run(Mix, net[family.Sample], more[0], guided, more[1])
	}}
}

// one is the only result of a call.
func one(out []*engine.Array, err error) (*engine.Array, error) {
	if err != nil {
		return nil, err
	}
	return out[0], nil
}
