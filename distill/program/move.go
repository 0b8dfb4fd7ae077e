package program

import (
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/gomlx/core/graph"
)

// Move is one deterministic step (5) of a model: in are its five inputs, a and b [B] the step's coefficients.
// guidance, if not nil, is g [B]; the empty prompt is zero embeddings, as SDXL's is.
func (f *Functions) Move(e *engine.Engine, model *engine.Params, in []*engine.Array, a, b, guidance *engine.Array) (*engine.Array, error) {
	bind := engine.Bind{NetUNet: model}
	if guidance != nil && guidesTogether(e) {
		return one(e.Call(f.Guided(), bind, inputs(in, a, b, guidance)...))
	}
	if guidance == nil {
		u, err := one(e.Call(f.Predict(), bind, in...))
		if err != nil {
			return nil, err
		}
		defer u.Free()
		return one(e.Call(Blend(), nil, in[unet.InSample], a, u, b))
	}
	zeros, err := e.Call(emptyPrompt, nil, in[unet.InText], in[unet.InPooled])
	if err != nil {
		return nil, err
	}
	defer engine.Free(zeros...)
	empty := inputs(in)
	empty[unet.InText], empty[unet.InPooled] = zeros[0], zeros[1]
	return f.MoveAway(e, model, in, empty, a, b, guidance)
}

// emptyPrompt are zeros in place of text and pooled embeddings, made on the device: an upload would wait for it.
var emptyPrompt = engine.Function{Key: "empty prompt", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
	return r.Run(nn.Block{Kind: "zeros", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.ZerosLike(in[0]), graph.ZerosLike(in[1])}
	}}, in...)
}}

// MoveAway is a guided Move that leads away from what the model makes of other inputs, by two calls.
func (f *Functions) MoveAway(e *engine.Engine, model *engine.Params, in, from []*engine.Array, a, b, guidance *engine.Array) (*engine.Array, error) {
	bind := engine.Bind{NetUNet: model}
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
	guided, err := one(e.Call(Guide(), nil, u, without, guidance))
	if err != nil {
		return nil, err
	}
	defer guided.Free()
	return one(e.Call(Blend(), nil, in[unet.InSample], a, guided, b))
}

// WarmMove compiles what Move needs, guided or not; column stands for any coefficients.
func (f *Functions) WarmMove(e *engine.Engine, model *engine.Params, guided bool, in []*engine.Array, column *engine.Array) error {
	bind := engine.Bind{NetUNet: model}
	if guided && guidesTogether(e) {
		return e.Warm(f.Guided(), bind, inputs(in, column, column, column)...)
	}
	return e.Warm(f.Predict(), bind, in...)
}

// guidesTogether says whether a guided call is one call of twice the batch: on devices, which small batches leave idle.
// At granularity network (CPUs) it is two calls, which share one program with calls that are not guided.
func guidesTogether(e *engine.Engine) bool { return e.Granularity < nn.Network }

// Guided is a guided Move in one: x, t, text, pooled, ids, a, b, g → a·x + b·(u_∅ + g·(u_c − u_∅)), u_c and u_∅ by one
// network call of twice the batch.
func (f *Functions) Guided() engine.Function {
	beside := op("beside_empty", func(in []*graph.Node) *graph.Node {
		return graph.Concatenate([]*graph.Node{in[0], graph.ZerosLike(in[0])}, 0)
	})
	return engine.Function{Key: "guided/" + f.signature(f.LoRA), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		twice := make([]nn.Value, conditions)
		for i := range twice {
			if i == unet.InText || i == unet.InPooled {
				twice[i] = nn.One(r, beside, in[i])
			} else {
				twice[i] = nn.One(r, stack(2), in[i], in[i])
			}
		}
		u := nn.One(r, f.UNet.Network(NetUNet, f.LoRA), twice...)
		guided := nn.One(r, guide, nn.One(r, part(0, 2), u), nn.One(r, part(1, 2), u), in[conditions+2])
		return r.Run(blend, in[unet.InSample], in[conditions], guided, in[conditions+1])
	}}
}

// one is the only result of a call.
func one(out []*engine.Array, err error) (*engine.Array, error) {
	if err != nil {
		return nil, err
	}
	return out[0], nil
}
