package eval

import (
	"context"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/model/pipeline"
	"fewstep/model/unet"
)

// freshNoise numbers the noise that a sampler adds after call k: that of sample i is i + (k+1)·freshNoise, beyond all
// starting noises.
const freshNoise = int64(1) << 48

// scheduled draws one latent [s·s·C] per prompt by another scheduler than the students'; a short batch is padded with
// its last prompt. Sample i starts from noise (seed, first+i), as everywhere, and all fresh noise follows from its
// number too.
func (d *drawing) scheduled(ctx context.Context, plan scheduler.Plan, prompts []pipeline.Embedding, first int64) ([][]float32, error) {
	o, e := d.options, d.engine
	shapes := d.pipeline.UNetInputs(o.Batch, o.Size)
	number := func(i int) int64 { return first + int64(min(i, len(prompts)-1)) }
	x := make([]float32, 0, shapes[unet.InSample].Size())
	var text, pooled, ids []float32
	for i := range o.Batch {
		prompt := prompts[min(i, len(prompts)-1)]
		for _, v := range sample.Noise(d.pipeline, o.Seed, number(i), o.Size) {
			x = append(x, float32(plan.Start)*v)
		}
		text, pooled = append(text, prompt.Text...), append(pooled, prompt.Pooled...)
		ids = append(ids, pipeline.TimeIDs(o.Size)...)
	}
	var held []*engine.Array
	defer func() { engine.Free(held...) }()
	upload := func(v []float32, dims ...int) (*engine.Array, error) {
		a, err := e.Upload(v, dims...)
		if err == nil {
			held = append(held, a)
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
	in := make([]*engine.Array, 5)
	var err error
	for i, v := range [][]float32{text, pooled, ids} {
		if in[unet.InText+i], err = upload(v, shapes[unet.InText+i].Dimensions...); err != nil {
			return nil, err
		}
	}
	var guidance *engine.Array
	if o.Guidance > 1 {
		if guidance, err = constant(o.Guidance); err != nil {
			return nil, err
		}
	}
	f := &program.Functions{UNet: d.pipeline.UNet}
	each := len(x) / o.Batch
	fresh := make([]float32, each)
	for k, m := range plan.Moves {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if in[unet.InSample], err = upload(x, shapes[unet.InSample].Dimensions...); err != nil {
			return nil, err
		}
		var columns [3]*engine.Array
		for i, v := range []float64{float64(m.Index), m.A, m.B} {
			if columns[i], err = constant(v); err != nil {
				return nil, err
			}
		}
		in[unet.InTime] = columns[0]
		next, err := f.Move(e, d.params, in, columns[1], columns[2], guidance)
		if err != nil {
			return nil, err
		}
		x, err = e.Floats(next)
		next.Free()
		if err != nil {
			return nil, err
		}
		for i := 0; m.C != 0 && i < o.Batch; i++ {
			distill.Normal(fresh, o.Seed, distill.EvalNoise, number(i)+int64(k+1)*freshNoise)
			for j, z := range fresh {
				x[i*each+j] += float32(m.C) * z
			}
		}
	}
	out := make([][]float32, len(prompts))
	for i := range out {
		out[i] = x[i*each : (i+1)*each : (i+1)*each]
	}
	return out, nil
}
