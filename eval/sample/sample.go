// Package sample draws images: Euler steps on the trailing grid, with or without classifier-free guidance, from noise
// that depends on the prompt's number alone.
package sample

import (
	"context"
	"fmt"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/pipeline"
	"fewstep/model/unet"
)

// Options of a sampling run.
type Options struct {
	Steps      int                // network calls per image, twice that with guidance
	Guidance   float64            // classifier-free guidance scale; 0 or 1 = off
	Prediction distill.Prediction // what the network predicts
	Seed       uint64
	First      int64 // number of the first prompt: sample i starts from noise (Seed, First+i)
	Resolution int   // pixels
	Batch      int   // images per program call
	Progress   func(done, total int)
}

// Calls is the number of network evaluations per image.
func (o Options) Calls() int {
	if o.guided() {
		return 2 * o.Steps
	}
	return o.Steps
}

func (o Options) guided() bool { return o.Guidance > 1 }

// Noise is the starting latent of one sample.
func Noise(p *pipeline.Pipeline, seed uint64, number int64, resolution int) []float32 {
	side := resolution / p.Factor()
	x := make([]float32, side*side*p.UNet.InChannels)
	distill.Normal(x, seed, distill.EvalNoise, number)
	return x
}

// Latents draws one latent [s·s·C] per prompt embedding.
func Latents(ctx context.Context, e *engine.Engine, p *pipeline.Pipeline, model *engine.Params, prompts []pipeline.Embedding, o Options) ([][]float32, error) {
	if o.Steps < 1 || o.Batch < 1 {
		return nil, fmt.Errorf("sampling needs at least one step and a batch of at least one, not %d and %d", o.Steps, o.Batch)
	}
	out := make([][]float32, 0, len(prompts))
	for start := 0; start < len(prompts); start += o.Batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		batch := prompts[start:min(start+o.Batch, len(prompts))]
		z, err := draw(e, p, model, batch, o.First+int64(start), o)
		if err != nil {
			return nil, err
		}
		out = append(out, z...)
		if o.Progress != nil {
			o.Progress(len(out), len(prompts))
		}
	}
	return out, nil
}

// draw samples one batch; a short one is padded with its last prompt.
func draw(e *engine.Engine, p *pipeline.Pipeline, model *engine.Params, batch []pipeline.Embedding, first int64, o Options) ([][]float32, error) {
	shapes := p.UNetInputs(o.Batch, o.Resolution)
	x := make([]float32, 0, shapes[unet.InSample].Size())
	var text, pooled, ids []float32
	for i := range o.Batch {
		k := min(i, len(batch)-1)
		x = append(x, Noise(p, o.Seed, first+int64(k), o.Resolution)...)
		text, pooled = append(text, batch[k].Text...), append(pooled, batch[k].Pooled...)
		ids = append(ids, p.TimeIDs(o.Resolution)...)
	}
	var fixed []*engine.Array
	defer func() { engine.Free(fixed...) }()
	upload := func(v []float32, dims ...int) (*engine.Array, error) {
		a, err := e.Upload(v, dims...)
		if err == nil {
			fixed = append(fixed, a)
		}
		return a, err
	}
	constant := func(v float64) (*engine.Array, error) {
		all := make([]float32, o.Batch)
		for i := range all {
			all[i] = float32(v)
		}
		return upload(all, o.Batch)
	}
	cond := make([]*engine.Array, 3)
	for i, v := range [][]float32{text, pooled, ids} {
		a, err := upload(v, shapes[unet.InText+i].Dimensions...)
		if err != nil {
			return nil, err
		}
		cond[i] = a
	}
	current, err := e.Upload(x, shapes[unet.InSample].Dimensions...)
	if err != nil {
		return nil, err
	}
	f := &program.Functions{UNet: p.UNet}
	var guidance *engine.Array
	if o.guided() {
		if guidance, err = constant(o.Guidance); err != nil {
			return nil, err
		}
	}
	grid := p.Schedule.Euler(o.Steps)
	for i, t := range grid[:len(grid)-1] {
		a, b := p.Schedule.MoveCoefficients(o.Prediction, t, grid[i+1])
		column := map[string]*engine.Array{}
		for name, v := range map[string]float64{"t": float64(p.Schedule.NetworkIndex(t)), "a": a, "b": b} {
			if column[name], err = constant(v); err != nil {
				return nil, err
			}
		}
		next, err := f.Move(e, model, []*engine.Array{current, column["t"], cond[0], cond[1], cond[2]}, column["a"], column["b"], guidance)
		current.Free()
		if err != nil {
			return nil, err
		}
		current = next
	}
	defer current.Free()
	flat, err := e.Floats(current)
	if err != nil {
		return nil, err
	}
	n := len(flat) / o.Batch
	out := make([][]float32, len(batch))
	for i := range batch {
		out[i] = flat[i*n : (i+1)*n : (i+1)*n]
	}
	return out, nil
}
