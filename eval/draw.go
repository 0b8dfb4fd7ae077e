package eval

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"

	"fewstep/eval/sample"
	"fewstep/model/family"
	"fewstep/model/pipeline"

	"golang.org/x/sync/errgroup"
)

// drawing draws the images of one row.
type drawing struct {
	pipeline *pipeline.Pipeline
	lanes    []*lane           // take turns with the batches
	open     func(*lane) error // loads a lane's networks; called when its first image has to be drawn
	options  sample.Options    // First is the number of the first prompt's noise
	side     int               // of the images in pixels
	kept     *kept             // may be nil

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
// Each device draws every so many batches, each of them as a single device would: the images are the same bits. Prompts are
// encoded some batches ahead, and a batch's network calls are queued on the device before those of the batch before are
// done: between two batches the device waits for nothing.
func (d *drawing) draw(ctx context.Context, prompts []string, use ...func(batch) error) error {
	if d.kept != nil {
		use = append(use, d.file)
	}
	g, line := errgroup.WithContext(ctx)
	d.clock.begin(func() int { return d.lanes[0].engine.Compiled().Programs })
	defer d.clock.end()
	pending := make([][]*sample.Pending, len(d.lanes))
	defer func() { // of a line that was stopped
		for _, p := range slices.Concat(pending...) {
			p.Free()
		}
	}()
	turns := make([]<-chan batch, len(d.lanes))
	for i, l := range d.lanes {
		turns[i] = d.drawOn(line, g, l, i, prompts, &pending[i])
	}
	drawn := source(line, g, 0, func(yield func(batch) bool) error {
		for i := 0; ; i = (i + 1) % len(turns) {
			b, more := <-turns[i]
			if !more || !yield(b) {
				return nil
			}
		}
	})
	sinks(line, g, drawn, use...)
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// drawOn draws the batches of one device, which is number at among the lanes.
func (d *drawing) drawOn(line context.Context, g *errgroup.Group, l *lane, at int, prompts []string, pending *[]*sample.Pending) <-chan batch {
	encoded := source(line, g, queued, func(yield func(batch) bool) error {
		for first := at * d.options.Batch; first < len(prompts); first += len(d.lanes) * d.options.Batch {
			if line.Err() != nil {
				return nil
			}
			b := batch{first: first, n: min(d.options.Batch, len(prompts)-first)}
			if b.images = d.kept.load(b.first, b.n, d.side); b.images != nil {
				b.kept = true
			} else if err := d.encode(l, prompts, &b); err != nil {
				return err
			}
			if !yield(b) {
				return nil
			}
		}
		return nil
	})
	// One batch may wait, so that the device has two to work on while a third one's pixels are read.
	denoised := station(line, g, 1, encoded, func(b batch) (batch, error) {
		if b.kept || !d.clock.clear(line) {
			return b, line.Err()
		}
		err := d.clock.during(func() error { return d.denoise(line, l, &b) })
		if err == nil {
			*pending = append(*pending, b.latents)
		}
		return b, err
	})
	return station(line, g, queued, denoised, func(b batch) (batch, error) {
		if b.kept {
			return b, nil
		}
		err := d.clock.during(func() error { return d.decode(l, &b) })
		d.clock.drawn(b.n)
		return b, err
	})
}

// encode gives the embeddings of a batch's prompts.
func (d *drawing) encode(l *lane, prompts []string, b *batch) error {
	if !l.ready {
		if err := d.open(l); err != nil {
			return err
		}
		l.ready = true
	}
	return d.clock.during(func() (err error) {
		b.embeddings, err = l.encoders.Text(prompts[b.first : b.first+b.n])
		return err
	})
}

// denoise queues the network calls of a batch.
func (d *drawing) denoise(ctx context.Context, l *lane, b *batch) (err error) {
	o := d.options
	o.First += int64(b.first)
	o.Negative = l.negative
	b.latents, err = sample.Queue(ctx, l.engine, d.pipeline, l.model, b.embeddings, o)
	b.embeddings = nil
	return err
}

func (d *drawing) decode(l *lane, b *batch) error {
	latents, err := b.latents.Latents()
	if err != nil {
		return err
	}
	b.latents = nil
	values, err := l.encoders.Images(latents, pipeline.Square(d.side))
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
