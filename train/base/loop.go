package base

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"fewstep/data"
	"fewstep/data/feed"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Trainer runs a recipe.
type Trainer struct {
	Config  *Config
	Backend compute.Backend
	Log     *slog.Logger

	p     *pipeline.Pipeline
	e     *engine.Engine
	train *data.Set
	eval  *data.Set // nil when the source has no eval split
	order *data.Order

	recipe  string // digest of the part in training
	stopped bool   // the part was asked to stop before its end
}

// Run trains the parts that have samples, in the order vae, clip, unet, and writes each when it is done.
func (t *Trainer) Run(ctx context.Context) error {
	if err := t.open(ctx); err != nil {
		if ctx.Err() != nil {
			return ErrInterrupted
		}
		return err
	}
	return t.trainParts(ctx)
}

// open opens the model and its data.
func (t *Trainer) open(ctx context.Context) (err error) {
	c := t.Config
	if t.p, err = pipeline.Open(c.Model); err != nil {
		return err
	}
	opt := data.Options{Split: "train"}
	if t.train, err = data.Open(ctx, c.Data, opt); err != nil {
		return err
	}
	opt.Split = "eval"
	if t.eval, err = data.Open(ctx, c.Data, opt); err != nil {
		if ctx.Err() != nil {
			return err
		}
		t.eval = nil
	}
	t.order, err = t.train.Order(data.OrderOptions{Seed: c.Seed, Fine: c.Captions.Fine, Kind: c.Captions.Kind, Coarse: c.Captions.Coarse})
	if err != nil {
		return err
	}
	dtype := dtypes.Float32
	if c.Compute == "bf16" {
		dtype = dtypes.BFloat16
	}
	t.e = engine.New(t.Backend, dtype, nn.Network)
	return nil
}

// trainParts trains the parts that have samples and are not trained already.
func (t *Trainer) trainParts(ctx context.Context) error {
	c := t.Config
	for _, part := range []struct {
		name     string
		samples  int64
		settings any
		run      func(context.Context) error
	}{{"vae", c.VAE.Samples, c.VAE, t.trainVAE}, {"clip", c.CLIP.Samples, c.CLIP, t.trainCLIP}, {"unet", c.UNet.Samples, c.UNet, t.trainUNet}} {
		if part.samples == 0 {
			continue
		}
		start := time.Now()
		recipe, err := t.recipeDigest(part.settings)
		if err != nil {
			return err
		}
		if done, err := t.isDone(part.name, recipe); err != nil {
			return err
		} else if done {
			t.Log.Info("trained already", "part", part.name, "by", t.statePath(part.name, ".json"))
			continue
		}
		t.recipe = recipe
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("training the %s: %w", part.name, err)
		}
		if t.stopped {
			return ErrInterrupted
		}
		if err := t.finished(part.name, record{Recipe: recipe, Samples: part.samples}); err != nil {
			return err
		}
		t.Log.Info("done", "part", part.name, "samples", part.samples, "seconds", int(time.Since(start).Seconds()))
	}
	return nil
}

// ErrInterrupted ends a training that was asked to stop: its state and the weights so far are written.
var ErrInterrupted = errors.New("interrupted; the state is saved, the same command continues")

// rate is the learning rate after done of p.Samples.
func (p *Part) rate(done int64) float64 {
	if done < p.Warmup {
		return p.LR * float64(done+int64(p.Batch)) / float64(p.Warmup+int64(p.Batch))
	}
	x := float64(done-p.Warmup) / float64(max(p.Samples-p.Warmup, 1))
	return p.LR * (0.01 + 0.99*0.5*(1+math.Cos(math.Pi*min(x, 1))))
}

func (p *Part) adam() engine.Adam {
	return engine.Adam{Beta1: 0.9, Beta2: 0.99, WeightDecay: p.WeightDecay, ClipNorm: p.ClipNorm, EMA: p.EMA}
}

// batch is one update's inputs on the host.
type batch []tensor

type tensor struct {
	flat any
	dims []int
}

// loop feeds batches, made ahead by several goroutines, to an optimizer until p.Samples are seen. The trained weights
// (averaged, if EMA is on) are returned.
func (t *Trainer) loop(ctx context.Context, name string, p *Part, f engine.Function, specs []nn.Spec, start engine.Tensors, fill func(first int64) (batch, error)) (engine.Tensors, error) {
	saved, at, restore, err := t.loadState(name, t.recipe, specs)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		start = saved
		t.Log.Info("continuing", "part", name, "samples", at.Samples, "of", p.Samples)
	}
	params, err := t.e.Load(specs, start, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	defer params.FreeAll()
	o, err := t.e.NewOptimizer(p.adam(), params)
	if err != nil {
		return nil, err
	}
	defer o.Free()
	if restore != nil {
		if err := restore(o); err != nil {
			return nil, err
		}
	}
	next, stop := ahead(at.Samples, p.Samples, int64(p.Batch), fill)
	defer stop()
	uploads := t.uploads(p, next)
	defer uploads.Close()
	read := &losses{e: t.e, batch: int64(p.Batch)}
	defer read.free()
	begin, reported, kept := time.Now(), time.Now(), time.Now()
	for done := at.Samples; done < p.Samples; done += int64(p.Batch) {
		if t.stopped = ctx.Err() != nil; t.stopped || time.Since(kept).Minutes() >= t.Config.CheckpointMinutes {
			if err := read.settle(0); err != nil {
				return nil, err
			}
			if err := t.saveState(name, t.recipe, params, o, done); err != nil {
				return nil, err
			}
			kept = time.Now()
		}
		if t.stopped {
			t.Log.Warn("stopped early; the state and the weights so far are written", "part", name, "samples", done)
			break
		}
		in, err := uploads.Take(done)
		if err != nil {
			return nil, err
		}
		r, err := t.e.Train(f, engine.Bind{name: params}, name, o, engine.Step{LR: p.rate(done)}, in...)
		engine.Free(in...)
		if err != nil {
			return nil, fmt.Errorf("samples %d to %d: %w", done, done+int64(p.Batch)-1, err)
		}
		read.queue = append(read.queue, queued{done, r})
		last, behind := done+int64(p.Batch) >= p.Samples, inFlight
		if last {
			behind = 0
		}
		if err := read.settle(behind); err != nil {
			return nil, err
		}
		if time.Since(reported) > 5*time.Second && read.count > 0 || last {
			speed := float64(done+int64(p.Batch)-at.Samples) / time.Since(begin).Seconds()
			t.Log.Info(name, "samples", done+int64(p.Batch), "of", p.Samples, "loss", fmt.Sprintf("%.5f", read.mean()),
				"per_s", int(speed), "eta", (time.Duration(float64(p.Samples-done)/speed) * time.Second).String())
			reported = time.Now()
		}
	}
	if err := read.settle(0); err != nil {
		return nil, err
	}
	if p.EMA > 0 {
		return t.e.Average(o)
	}
	return t.e.Download(params, nil)
}

type result struct {
	batch batch
	err   error
}

// ahead makes batches in order, some in parallel and in advance, from the sample at on.
func ahead(at, samples, size int64, fill func(first int64) (batch, error)) (<-chan result, func()) {
	queue := make(chan chan result, max(6, runtime.GOMAXPROCS(0)))
	out := make(chan result)
	quit := make(chan struct{})
	go func() {
		defer close(queue)
		for first := at; first < samples; first += size {
			slot := make(chan result, 1)
			select {
			case queue <- slot:
			case <-quit:
				return
			}
			go func() {
				b, err := fill(first)
				slot <- result{b, err}
			}()
		}
	}()
	go func() {
		for slot := range queue {
			select {
			case out <- <-slot:
			case <-quit:
				return
			}
		}
	}()
	return out, func() { close(quit) }
}

// fresh draws a component's initial weights from the seed and the parameters' names.
func (t *Trainer) fresh(specs []nn.Spec) engine.Tensors {
	return engine.Fresh(specs,
		func(name string, v []float32) {
			for i := range v {
				v[i] = float32(distill.Uniform(t.Config.Seed, distill.Init, distill.NumberOf(name), uint32(i)))
			}
		},
		func(name string, v []float32) { distill.Normal(v, t.Config.Seed, distill.Init, distill.NumberOf(name)) })
}

// images gives n images of a set in parallel: [side, side, 3] each.
func images(set *data.Set, n, side int, row func(i int) int) ([][]float32, error) {
	out, failed := make([][]float32, n), make([]error, n)
	feed.Each(n, func(i int) { out[i], failed[i] = set.Image(row(i), side) })
	return out, errors.Join(failed...)
}
