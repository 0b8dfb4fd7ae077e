package eval

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"
	"sync"
	"time"

	"fewstep/engine"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/model/pipeline"

	"golang.org/x/sync/errgroup"
)

// drawing draws the images of one row.
type drawing struct {
	engine   *engine.Engine
	pipeline *pipeline.Pipeline
	encoders *pipeline.Encoders
	params   *engine.Params
	open     func() error    // sets encoders and params; called when the first image has to be drawn
	options  sample.Options  // First is the number of the first prompt's noise
	plan     *scheduler.Plan // nil: the students' own way
	side     int             // of the images in pixels
	kept     *kept           // may be nil

	clock stopwatch
}

// batch is a piece of work on the line: images first to first+n−1.
type batch struct {
	first, n int
	latents  [][]float32
	images   []*image.NRGBA
	kept     bool // the images lay on disk
}

// stopwatch measures how long images take to draw: to encode the prompt, denoise and decode, without what is done with
// them afterwards. Batches in which programs were compiled do not count.
type stopwatch struct {
	mu       sync.Mutex
	seconds  float64 // of batches that count
	images   int
	busy     float64      // of denoising, compilation included
	wall     float64      // from the first batch to the last image's numbers
	compiled map[int]bool // batches that do not count, by their first image
	partial  map[int]float64
}

// share of the time in which the model was denoising: 1 when all else is hidden behind it.
func (s *stopwatch) share() float64 {
	if s.wall == 0 {
		return 0
	}
	return s.busy / s.wall
}

// perImage is in seconds; 0 where every batch had to compile.
func (s *stopwatch) perImage() float64 {
	if s.images == 0 {
		return 0
	}
	return s.seconds / float64(s.images)
}

// lap times one station's work on a batch.
func (s *stopwatch) lap(e *engine.Engine, b batch, last, device bool, f func() error) error {
	before, start := e.Compiled().Programs, time.Now()
	err := f()
	took := time.Since(start).Seconds()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partial == nil {
		s.partial, s.compiled = map[int]float64{}, map[int]bool{}
	}
	s.partial[b.first] += took
	s.compiled[b.first] = s.compiled[b.first] || e.Compiled().Programs != before
	if device {
		s.busy += took
	}
	if last && !s.compiled[b.first] {
		s.seconds += s.partial[b.first]
		s.images += b.n
	}
	return err
}

// draw makes one image for each prompt and hands them over in batches, in order, to each of the functions: they run
// beside the drawing of the next batches, each in a goroutine of its own.
func (d *drawing) draw(ctx context.Context, prompts []string, use ...func(batch) error) error {
	started := time.Now()
	defer func() { d.clock.wall = time.Since(started).Seconds() }()
	if d.kept != nil {
		use = append(use, d.file)
	}
	g, line := errgroup.WithContext(ctx)
	work := source(line, g, func(yield func(batch) bool) error {
		for first := 0; first < len(prompts); first += d.options.Batch {
			if line.Err() != nil {
				return nil
			}
			b := batch{first: first, n: min(d.options.Batch, len(prompts)-first)}
			if b.images = d.kept.load(b.first, b.n, d.side); b.images != nil {
				b.kept = true
			} else if err := d.clock.lap(d.engine, b, false, true, func() error { return d.denoise(line, prompts, &b) }); err != nil {
				if line.Err() != nil {
					return nil
				}
				return err
			}
			if !yield(b) {
				return nil
			}
		}
		return nil
	})
	drawn := station(line, g, work, func(b batch) (batch, error) {
		if b.kept {
			return b, nil
		}
		err := d.clock.lap(d.engine, b, true, false, func() error { return d.decode(&b) })
		return b, err
	})
	sinks(line, g, drawn, use...)
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (d *drawing) denoise(ctx context.Context, prompts []string, b *batch) error {
	if d.params == nil {
		if err := d.open(); err != nil {
			return err
		}
	}
	embeddings, err := d.encoders.Text(prompts[b.first : b.first+b.n])
	if err != nil {
		return err
	}
	o := d.options
	o.First += int64(b.first)
	if d.plan != nil {
		b.latents, err = d.scheduled(ctx, *d.plan, embeddings, o.First)
		return err
	}
	b.latents, err = sample.Latents(ctx, d.engine, d.pipeline, d.params, embeddings, o)
	return err
}

func (d *drawing) decode(b *batch) error {
	values, err := d.encoders.Images(b.latents, pipeline.Square(d.side))
	if err != nil {
		return err
	}
	b.latents = nil
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
