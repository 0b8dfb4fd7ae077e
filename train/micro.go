package train

import (
	"errors"
	"slices"

	"fewstep/configs"
	"fewstep/data/feed"
	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/family"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/shapes"
)

// micro is a micro-batch on the host: what of an update does not depend on its networks. It is filled again and again.
type micro struct {
	*distill.Batch
	x          []float32   // x_t
	conditions [][]float32 // in the order of the denoiser's inputs
	epsilon    []float32   // that x_t was made with
	noise      []float32   // the discriminator's ε*, shared by real and fake (3.7), zeros where it sees none; nil without one
	penalty    []float32   // the noise of its approximate R1; nil without one
}

// feeds begins to make the phase's micro-batches, of each the device's part.
func (p *phase) feeds() {
	c := p.Config.Train
	p.feed = &feed.Feed[micro, *inputs]{Fill: p.fill, Upload: p.upload, Free: (*inputs).free, Size: c.Batch,
		End: p.step.First + p.step.Samples + int64(p.rank*p.perDevice())}
}

// shapes are those of the denoiser's inputs, of the device's part of a micro-batch.
func (p *phase) shapes() []shapes.Shape {
	return p.Pipeline.UNetInputs(p.perDevice(), pipeline.Square(p.Config.Data.Resolution))
}

// fill makes a micro-batch of the samples from first on: x_t by (1) with the schedule fix (3.5), captions, conditions, ε*.
func (p *phase) fill(m *micro, first int64) (err error) {
	s, c, n := p.samples, p.Config, p.perDevice()
	if m.Batch, err = p.sampler.Batch(first, n); err != nil {
		return err
	}
	told := p.Pipeline.Conditions()
	if m.x == nil {
		m.x = make([]float32, p.shapes()[family.Sample].Size())
		for _, c := range told {
			m.conditions = append(m.conditions, make([]float32, n*c.Size()))
		}
		m.epsilon = make([]float32, len(m.x))
		if p.step.Kind == configs.KindAdversarial {
			m.noise = make([]float32, len(m.x))
			if p.f.R1.Weight > 0 {
				m.penalty = make([]float32, len(m.x))
			}
		}
		ids := pipeline.TimeIDs(pipeline.Square(c.Data.Resolution))
		for k, t := range told {
			for i := 0; i < n && t.Name == family.Sizes; i++ {
				copy(sample(m.conditions[k], i, n), ids)
			}
		}
	}
	failed := make([]error, n)
	feed.Each(n, func(i int) {
		k, x := first+int64(i), sample(m.x, i, n)
		var ofCaption [][]float32
		for k, t := range told {
			if t.Caption {
				ofCaption = append(ofCaption, sample(m.conditions[k], i, n))
			}
		}
		if failed[i] = s.embeddings.read(s.caption[s.order.Caption(k)], ofCaption...); failed[i] != nil {
			return
		}
		if failed[i] = s.latents.read(s.order.Row(k), x); failed[i] != nil {
			return
		}
		noise := sample(m.epsilon, i, n)
		distill.Normal(noise, c.Seed, distill.Noise, k)
		a, b := float32(m.InputA[i]), float32(m.InputB[i])
		for j := range x {
			x[j] = a*x[j] + b*noise[j]
		}
		if m.penalty != nil {
			distill.Normal(sample(m.penalty, i, n), c.Seed, distill.PenaltyNoise, k)
		}
		switch {
		case m.noise == nil:
		case m.ViewB[i] != 0:
			distill.Normal(sample(m.noise, i, n), c.Seed, distill.DiscriminatorNoise, k)
		default:
			clear(sample(m.noise, i, n))
		}
	})
	return errors.Join(failed...)
}

// sample is the part of sample i of n.
func sample(v []float32, i, n int) []float32 {
	size := len(v) / n
	return v[i*size : (i+1)*size]
}

// inputs are a micro-batch on the device: all that its part of an update takes beside networks.
type inputs struct {
	x, t       *engine.Array     // x_t, and the network's index of t
	conditions []*engine.Array   // in the order of the denoiser's inputs
	a, b       *engine.Array     // the student's step (5)
	teacher    []move            // the teacher's calls in order, or the frozen network's in a conversion
	guidance   *program.Guidance // of the teacher; nil = none
	view       []*engine.Array   // what the discriminator is shown: t', ε*, keep, add
	penalty    []*engine.Array   // the noise of its approximate R1, if it has one
	owned      []*engine.Array
}

// move is a call of the teacher: its index of the timestep, and the coefficients of the step (5).
type move struct{ t, a, b *engine.Array }

func (in *inputs) free() { engine.Free(in.owned...) }

// call builds a function's inputs: x, timestep indices, conditions, more.
func (in *inputs) call(x, t *engine.Array, more ...*engine.Array) []*engine.Array {
	return slices.Concat([]*engine.Array{x, t}, in.conditions, more)
}

// upload puts a micro-batch on the device.
func (p *phase) upload(m *micro) (*inputs, error) {
	in, n := &inputs{}, len(m.T)
	var failed error
	array := func(v []float32, dims ...int) *engine.Array {
		if failed != nil {
			return nil
		}
		var a *engine.Array
		if a, failed = p.Engine.Upload(v, dims...); failed == nil {
			in.owned = append(in.owned, a)
		}
		return a
	}
	column := func(v []float64) *engine.Array {
		f := make([]float32, n)
		for i := range v {
			f[i] = float32(v[i])
		}
		return array(f, n)
	}
	index := func(t []int) *engine.Array {
		f := make([]float32, n)
		for i := range t {
			f[i] = float32(p.Pipeline.Schedule.NetworkIndex(t[i]))
		}
		return array(f, n)
	}
	shape := p.shapes()
	in.x, in.t = array(m.x, shape[family.Sample].Dimensions...), index(m.T)
	for i, v := range m.conditions {
		in.conditions = append(in.conditions, array(v, shape[family.Given+i].Dimensions...))
	}
	in.a, in.b = column(m.StudentA), column(m.StudentB)
	for _, w := range m.Teacher {
		in.teacher = append(in.teacher, move{index(w.At), column(w.A), column(w.B)})
	}
	if p.step.Kind == configs.KindX0 {
		in.teacher = []move{{in.t, column(m.TargetA), column(m.TargetB)}}
	} else if p.step.Guidance > 1 {
		g := make([]float64, n)
		for i := range g {
			g[i] = p.step.Guidance
		}
		in.guidance = &program.Guidance{Scale: column(g), Empty: p.empty}
	}
	if m.noise != nil {
		in.view = []*engine.Array{index(m.ViewT), array(m.noise, shape[family.Sample].Dimensions...), column(m.ViewA), column(m.ViewB)}
	}
	if m.penalty != nil {
		in.penalty = []*engine.Array{array(m.penalty, shape[family.Sample].Dimensions...)}
	}
	if failed != nil {
		in.free()
		return nil, failed
	}
	return in, nil
}
