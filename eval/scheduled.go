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

// scheduled draws one latent per prompt by another scheduler than the students'; a short batch is padded with its last
// prompt. Sample i starts from noise (seed, first+i), as everywhere, and all fresh noise follows from its number too.
// Only calls after which noise is added wait for the device.
func (d *drawing) scheduled(ctx context.Context, plan scheduler.Plan, prompts []pipeline.Embedding, first int64) (*sample.Pending, error) {
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
	current, err := e.Upload(x, shapes[unet.InSample].Dimensions...)
	if err != nil {
		return nil, err
	}
	defer func() { current.Free() }() // nil once it is handed over
	each := len(x) / o.Batch
	for k, m := range plan.Moves {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		in[unet.InSample] = current
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
		current.Free()
		current = next
		if m.C == 0 {
			continue
		}
		fresh := make([]float32, len(x)) // drawn while the device is at work
		for i := range o.Batch {
			d.freshNoise(fresh[i*each:(i+1)*each], number(i), k)
		}
		if x, err = e.Floats(current); err != nil {
			return nil, err
		}
		for i, z := range fresh {
			x[i] += float32(m.C) * z
		}
		current.Free()
		if current, err = e.Upload(x, shapes[unet.InSample].Dimensions...); err != nil {
			return nil, err
		}
	}
	out := sample.NewPending(e, current, o.Batch, len(prompts))
	current = nil
	return out, nil
}

// freshNoise draws the noise that is added to a sample after call k.
func (d *drawing) freshNoise(out []float32, number int64, k int) {
	distill.Normal(out, d.options.Seed, distill.EvalNoise, number+int64(k+1)*freshNoise)
}
