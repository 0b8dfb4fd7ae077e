// Package sample draws images: the calls of a scheduler, with or without classifier-free guidance, from noise that depends
// on the prompt's number alone.
package sample

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/eval/scheduler"
	"fewstep/model/family"
	"fewstep/model/pipeline"
)

// Options of a sampling run.
type Options struct {
	Steps      int                // network calls per image, twice that with guidance
	Guidance   float64            // classifier-free guidance scale; 0 or 1 = off
	Negative   family.Conditions  // what guidance leads away from; empty = zeros, as SDXL's empty prompt is
	Prediction distill.Prediction // what the network predicts
	Plan       *scheduler.Plan    // the calls; nil = scheduler.Trained's
	Seed       uint64
	First      int64                 // number of the first prompt: sample i starts from noise (Seed, First+i)
	Noise      [][]float32           // starting noise [h·w·C] per prompt; nil = drawn from Seed
	Size       pipeline.Size         // of the pictures
	TimeIDs    []float32             // micro-conditions; nil = an uncropped picture of its own size
	NegativeID []float32             // micro-conditions beside Negative; nil = TimeIDs
	Batch      int                   // images per program call
	Progress   func(done, total int) // called after every step of every batch; may be nil
}

// Calls is the number of network evaluations per image.
func (o Options) Calls() int {
	if o.guided() {
		return 2 * o.Steps
	}
	return o.Steps
}

func (o Options) guided() bool { return o.Guidance > 1 }

// Noise is the starting noise of one sample, [h·w·C].
func Noise(p *pipeline.Pipeline, seed uint64, number int64, size pipeline.Size) []float32 {
	x := make([]float32, p.UNetInputs(1, size)[family.Sample].Size())
	distill.Normal(x, seed, distill.EvalNoise, number)
	return x
}

// checked are the options for n prompts, defaults filled in.
func (o Options) checked(p *pipeline.Pipeline, n int) (Options, error) {
	if o.Steps < 1 || o.Steps > p.Schedule.T() || o.Batch < 1 {
		return o, fmt.Errorf("sampling needs 1 to %d steps and a batch of at least one, not %d and %d", p.Schedule.T(), o.Steps, o.Batch)
	}
	if o.Noise != nil && len(o.Noise) != n {
		return o, fmt.Errorf("there is starting noise for %d pictures, and there are %d prompts", len(o.Noise), n)
	}
	if o.TimeIDs == nil {
		o.TimeIDs = pipeline.TimeIDs(o.Size)
	}
	if o.NegativeID == nil {
		o.NegativeID = o.TimeIDs
	}
	if o.Plan == nil {
		plan, err := scheduler.Trained.Plan(p.Schedule, o.Prediction, scheduler.Settings{}, o.Steps)
		if err != nil {
			return o, err
		}
		o.Plan = &plan
	}
	return o, nil
}

// Latents draws one latent [h·w·C] per prompt embedding.
func Latents(ctx context.Context, e *engine.Engine, p *pipeline.Pipeline, model *engine.Params, prompts []family.Conditions, o Options) ([][]float32, error) {
	o, err := o.checked(p, len(prompts))
	if err != nil {
		return nil, err
	}
	out := make([][]float32, 0, len(prompts))
	for start := 0; start < len(prompts); start += o.Batch {
		end := min(start+o.Batch, len(prompts))
		d := &drawing{e: e, p: p, model: model, f: &program.Functions{Denoiser: p.UNet}, o: o, done: start / o.Batch * o.Steps,
			total: (len(prompts) + o.Batch - 1) / o.Batch * o.Steps}
		x, err := d.draw(ctx, prompts[start:end], start)
		d.free()
		if err != nil {
			return nil, err
		}
		z, err := NewPending(e, x, o.Batch, end-start).Latents()
		if err != nil {
			return nil, err
		}
		out = append(out, z...)
	}
	return out, nil
}

// Queue begins to draw a single batch, as Latents does, and returns when all of its programs are queued on the device. It
// waits for the device where a sampler adds noise.
func Queue(ctx context.Context, e *engine.Engine, p *pipeline.Pipeline, model *engine.Params, prompts []family.Conditions, o Options) (*Pending, error) {
	o, err := o.checked(p, len(prompts))
	if err != nil {
		return nil, err
	}
	if len(prompts) > o.Batch {
		return nil, fmt.Errorf("%d prompts are more than a batch of %d", len(prompts), o.Batch)
	}
	d := &drawing{e: e, p: p, model: model, f: &program.Functions{Denoiser: p.UNet}, o: o, total: o.Steps}
	defer d.free()
	x, err := d.draw(ctx, prompts, 0)
	if err != nil {
		return nil, err
	}
	return NewPending(e, x, o.Batch, len(prompts)), nil
}

// Pending is a batch of latents that the device may still be at work on.
type Pending struct {
	e        *engine.Engine
	x        *engine.Array
	batch, n int
}

// NewPending are the first n latents of x [batch, h, w, C], which it takes over.
func NewPending(e *engine.Engine, x *engine.Array, batch, n int) *Pending {
	return &Pending{e, x, batch, n}
}

// Latents waits for the latents [h·w·C] each, and frees the array.
func (p *Pending) Latents() ([][]float32, error) {
	defer p.Free()
	flat, err := p.e.Floats(p.x)
	if err != nil {
		return nil, err
	}
	size, out := len(flat)/p.batch, make([][]float32, p.n)
	for i := range out {
		out[i] = flat[i*size : (i+1)*size : (i+1)*size]
	}
	return out, nil
}

// Free gives the array back without waiting for it.
func (p *Pending) Free() { p.x.Free() }

// drawing is one batch on its way.
type drawing struct {
	e     *engine.Engine
	p     *pipeline.Pipeline
	model *engine.Params
	f     *program.Functions
	o     Options
	held  []*engine.Array // freed at the end

	done, total int // steps of this batch and those before, and of all
}

func (d *drawing) free() { engine.Free(d.held...) }

func (d *drawing) upload(v []float32, dims ...int) (*engine.Array, error) {
	a, err := d.e.Upload(v, dims...)
	if err == nil {
		d.held = append(d.held, a)
	}
	return a, err
}

// constant is a value for every sample.
func (d *drawing) constant(v float64) (*engine.Array, error) {
	all := make([]float32, d.o.Batch)
	for i := range all {
		all[i] = float32(v)
	}
	return d.upload(all, d.o.Batch)
}

// draw queues the drawing of the prompts from number at on; a short batch is padded with its last prompt.
func (d *drawing) draw(ctx context.Context, batch []family.Conditions, at int) (*engine.Array, error) {
	o, shapes := d.o, d.p.UNetInputs(d.o.Batch, d.o.Size)
	size, scale := shapes[family.Sample].Size()/o.Batch, float32(o.Plan.Start)
	number := func(i int) int64 { return o.First + int64(at+min(i, len(batch)-1)) }
	x := make([]float32, 0, o.Batch*size)
	with, without := make([]family.Conditions, o.Batch), make([]family.Conditions, o.Batch)
	for i := range o.Batch {
		k := min(i, len(batch)-1)
		var noise []float32
		if o.Noise == nil {
			noise = Noise(d.p, o.Seed, number(i), o.Size)
		} else if noise = o.Noise[at+k]; len(noise) != size {
			return nil, fmt.Errorf("starting noise %d has %d values, a picture of %v needs %d", at+k, len(noise), o.Size, size)
		}
		for _, v := range noise {
			x = append(x, scale*v)
		}
		with[i], without[i] = batch[k], o.Negative
	}
	condition, err := d.conditions(with, o.TimeIDs)
	if err != nil {
		return nil, err
	}
	var negative []*engine.Array
	var guidance *program.Guidance
	if o.guided() {
		scale, err := d.constant(o.Guidance)
		if err != nil {
			return nil, err
		}
		guidance = &program.Guidance{Scale: scale}
		same := slices.Equal(o.NegativeID, o.TimeIDs)
		if len(o.Negative) > 0 || !same {
			if negative, err = d.conditions(without, o.NegativeID); err != nil {
				return nil, err
			}
		}
		if negative != nil && same { // what is led away from differs in what follows from captions alone
			for i, c := range d.p.Conditions() {
				if c.Caption {
					guidance.Empty = append(guidance.Empty, negative[i])
				}
			}
			negative = nil
		}
	}
	current, err := d.e.Upload(x, shapes[family.Sample].Dimensions...)
	if err != nil {
		return nil, err
	}
	for k, m := range o.Plan.Moves {
		if err := ctx.Err(); err != nil {
			current.Free()
			return nil, err
		}
		next, err := d.step(current, m, condition, negative, guidance)
		current.Free()
		if err == nil && m.C != 0 {
			next, err = d.noised(next, m, func(i int) int64 { return number(i) + int64(k+1)*freshNoise })
		}
		if err != nil {
			return nil, err
		}
		current = next
		if d.done++; o.Progress != nil {
			o.Progress(d.done, d.total)
		}
	}
	return current, nil
}

// conditions are the denoiser's: those of captions and micro-conditions. Empty ones are zeros.
func (d *drawing) conditions(captions []family.Conditions, timeIDs []float32) (out []*engine.Array, err error) {
	all := make([]family.Conditions, len(captions))
	for i, c := range captions {
		all[i] = family.Conditions{family.Sizes: timeIDs}
		maps.Copy(all[i], c)
	}
	flat, err := family.Batch(d.p.Conditions(), all)
	if err != nil {
		return nil, err
	}
	shapes := d.p.UNetInputs(len(all), d.o.Size)
	for i, v := range flat {
		a, err := d.upload(v, shapes[family.Given+i].Dimensions...)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// freshNoise numbers the noise that a sampler adds after call k: that of sample i is i + (k+1)·freshNoise, beyond all
// starting noises.
const freshNoise = int64(1) << 48

// noised adds C times fresh noise to what a move gave, which it takes over. It waits for the device, and draws the noise
// meanwhile.
func (d *drawing) noised(x *engine.Array, m scheduler.Move, number func(i int) int64) (*engine.Array, error) {
	defer x.Free()
	dims := x.Shape().Dimensions
	fresh := make([]float32, x.Shape().Size())
	each := len(fresh) / d.o.Batch
	for i := range d.o.Batch {
		distill.Normal(fresh[i*each:(i+1)*each], d.o.Seed, distill.EvalNoise, number(i))
	}
	v, err := d.e.Floats(x)
	if err != nil {
		return nil, err
	}
	for i, z := range fresh {
		v[i] += float32(m.C) * z
	}
	return d.e.Upload(v, dims...)
}

// step is the deterministic part of a move, A·x + B·u; guidance may be nil, and negative is where it leads away from,
// nil for zeros.
func (d *drawing) step(x *engine.Array, m scheduler.Move, condition, negative []*engine.Array, guidance *program.Guidance) (*engine.Array, error) {
	var columns [3]*engine.Array
	for i, v := range []float64{float64(m.Index), m.A, m.B} {
		var err error
		if columns[i], err = d.constant(v); err != nil {
			return nil, err
		}
	}
	in := func(condition []*engine.Array) []*engine.Array {
		return append([]*engine.Array{x, columns[0]}, condition...)
	}
	if negative == nil {
		return d.f.Move(d.e, d.model, in(condition), columns[1], columns[2], guidance)
	}
	return d.f.MoveAway(d.e, d.model, in(condition), in(negative), columns[1], columns[2], guidance.Scale)
}
