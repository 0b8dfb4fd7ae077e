package eval

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"

	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/eval/sample"
	"fewstep/model/family"
	"fewstep/model/pipeline"

	"golang.org/x/sync/errgroup"
)

// drawing draws the images of one row.
type drawing struct {
	engine   *engine.Engine
	pipeline *pipeline.Pipeline
	encoders *encoder.Encoders
	params   *engine.Params
	open     func() error   // sets encoders and params; called when the first image has to be drawn
	options  sample.Options // First is the number of the first prompt's noise
	side     int            // of the images in pixels
	kept     *kept          // may be nil

	clock stopwatch
}

// batch is a piece of work on the line: images first to first+n−1.
type batch struct {
	first, n   int
	embeddings []family.Conditions
	latents    *sample.Pending
	images     []*image.NRGBA
	kept       bool // the images lay on disk
}

// draw makes one image for each prompt and hands them over in batches, in order, to each of the functions: they run
// beside the drawing of the next batches, each in a goroutine of its own.
//
// Prompts are encoded some batches ahead, and a batch's network calls are queued on the device before those of the batch
// before are done: between two batches the device waits for nothing.
func (d *drawing) draw(ctx context.Context, prompts []string, use ...func(batch) error) error {
	if d.kept != nil {
		use = append(use, d.file)
	}
	g, line := errgroup.WithContext(ctx)
	d.clock.begin(func() int { return d.engine.Compiled().Programs })
	defer d.clock.end()
	encoded := source(line, g, queued, func(yield func(batch) bool) error {
		for first := 0; first < len(prompts); first += d.options.Batch {
			if line.Err() != nil {
				return nil
			}
			b := batch{first: first, n: min(d.options.Batch, len(prompts)-first)}
			if b.images = d.kept.load(b.first, b.n, d.side); b.images != nil {
				b.kept = true
			} else if err := d.encode(prompts, &b); err != nil {
				return err
			}
			if !yield(b) {
				return nil
			}
		}
		return nil
	})
	var pending []*sample.Pending
	defer func() { // of a line that was stopped
		for _, p := range pending {
			p.Free()
		}
	}()
	// One batch may wait, so that the device has two to work on while a third one's pixels are read.
	denoised := station(line, g, 1, encoded, func(b batch) (batch, error) {
		if b.kept || !d.clock.clear(line) {
			return b, line.Err()
		}
		err := d.clock.during(func() error { return d.denoise(line, &b) })
		if err == nil {
			pending = append(pending, b.latents)
		}
		return b, err
	})
	drawn := station(line, g, queued, denoised, func(b batch) (batch, error) {
		if b.kept {
			return b, nil
		}
		err := d.clock.during(func() error { return d.decode(&b) })
		d.clock.drawn(b.n)
		return b, err
	})
	sinks(line, g, drawn, use...)
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// encode gives the embeddings of a batch's prompts.
func (d *drawing) encode(prompts []string, b *batch) error {
	if d.params == nil {
		if err := d.open(); err != nil {
			return err
		}
	}
	return d.clock.during(func() (err error) {
		b.embeddings, err = d.encoders.Text(prompts[b.first : b.first+b.n])
		return err
	})
}

// denoise queues the network calls of a batch.
func (d *drawing) denoise(ctx context.Context, b *batch) (err error) {
	o := d.options
	o.First += int64(b.first)
	b.latents, err = sample.Queue(ctx, d.engine, d.pipeline, d.params, b.embeddings, o)
	b.embeddings = nil
	return err
}

func (d *drawing) decode(b *batch) error {
	latents, err := b.latents.Latents()
	if err != nil {
		return err
	}
	b.latents = nil
	values, err := d.encoders.Images(latents, pipeline.Square(d.side))
	if err != nil {
		return err
	}
	for i, v := range values {
		if slices.ContainsFunc(v, func(x float32) bool { return math.IsNaN(float64(x)) }) {
			return fmt.Errorf("image %d holds values that are not numbers: the weights, or the number format they are computed in, cannot draw it", b.first+i)
		}
		b.images = append(b.images, sample.Image(v, pipeline.Square(d.side)))
	}
	return nil
}

// file saves a batch's images, several at once: encoding a PNG takes a while.
func (d *drawing) file(b batch) error {
	if b.kept {
		return nil
	}
	var g errgroup.Group
	for i, img := range b.images {
		g.Go(func() error { return d.kept.save(b.first+i, img) })
	}
	return g.Wait()
}
