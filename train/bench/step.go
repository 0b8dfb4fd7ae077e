package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/shapes"
)

// setup is everything that a step works on.
type setup struct {
	e              *engine.Engine
	o              Options
	f              *program.Functions
	student, base  *engine.Params
	disc           *engine.Params
	optS, optD     *engine.Optimizer
	cond           []*engine.Array // the denoiser's inputs
	a, b, g        *engine.Array
	next, one, nul *engine.Array
	parameters     int
	coder          *engine.Function // of a VAE step
}

// slab are random numbers in [−1, 1] of which weights are made; its length is odd, so that tensors differ.
var slab = func() []float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	v := make([]float32, 1<<20+7)
	for i := range v {
		v[i] = 2*rng.Float32() - 1
	}
	return v
}()

// value fills a parameter as a fresh network would.
func value(s nn.Spec) ([]float32, error) {
	v := make([]float32, s.Size())
	switch s.Init {
	case nn.Ones:
		for i := range v {
			v[i] = 1
		}
	case nn.FanIn, nn.FanInLoRA:
		bound := float32(math.Sqrt(float64(s.Dims[0]) / float64(s.Size())))
		for i := 0; i < len(v); {
			i += copy(v[i:], slab)
		}
		for i := range v {
			v[i] *= bound
		}
	}
	return v, nil
}

func newSetup(e *engine.Engine, p Preset, o Options) (*setup, error) {
	o.Batch /= max(o.Devices, 1)
	s := &setup{e: e, o: o, f: &program.Functions{UNet: p.UNet, Disc: &discriminator.Config{UNet: p.UNet}}}
	if o.Step == "vae-encode" || o.Step == "vae-decode" {
		return s, s.autoencoder(p)
	}
	if o.Critic == "lora" {
		s.f.Disc.LoRA = &nn.LoRA{Rank: o.Rank, Scale: 8 / float64(o.Rank)}
	}
	if isLoRA(o.Step) {
		s.f.LoRA = &nn.LoRA{Rank: o.Rank, Scale: 8 / float64(o.Rank)}
	}
	ins := inputs(p, o.Batch)
	load := func(b nn.Block, trained func(string) bool) (*engine.Params, error) {
		specs, err := nn.Trace(e.Backend, b, inputs(p, 1)...)
		if err != nil {
			return nil, err
		}
		return e.LoadFunc(specs, value, trained)
	}
	everything := func(string) bool { return true }
	var err error
	if s.base, err = load(p.UNet.Network("", nil), nil); err != nil {
		return nil, err
	}
	switch {
	case s.f.LoRA != nil:
		s.student, err = s.overBase(p, p.UNet.Network("", s.f.LoRA), engine.IsLoRA)
	case o.Step == "forward":
		s.student = s.base
	default:
		s.student, err = load(p.UNet.Network("", nil), everything)
	}
	if err != nil {
		return nil, err
	}
	s.parameters, _ = s.student.Count()
	adam := engine.Adam{Beta1: 0.9, Beta2: 0.999, Moments: o.Moments}
	if o.Step == "adv-lora" || o.Step == "adv-full" {
		adam.Beta1, adam.Beta2 = 0, 0.99
		network := s.f.Disc.Network("", discriminator.Conditional)
		if s.f.Disc.LoRA != nil {
			s.disc, err = s.overBase(p, network, s.f.Disc.Trains)
		} else {
			s.disc, err = load(network, everything)
		}
		if err != nil {
			return nil, err
		}
		if s.optD, err = e.NewOptimizer(adam, s.disc); err != nil {
			return nil, err
		}
	}
	if o.Step != "forward" {
		if s.optS, err = e.NewOptimizer(adam, s.student); err != nil {
			return nil, err
		}
	}
	if s.f.LoRA != nil && e.Split {
		if err := e.Materialise(s.student, *s.f.LoRA); err != nil {
			return nil, err
		}
		s.f.LoRA = nil
	}
	if lora := s.f.Disc.LoRA; lora != nil && e.Split && s.disc != nil {
		if err := e.Materialise(s.disc, *lora); err != nil {
			return nil, err
		}
		s.f.Disc.LoRA = nil
	}
	told := p.UNet.Conditions(p.Tokens)
	for i, shape := range ins {
		constant := i == family.Time || i >= family.Given && !told[i-family.Given].Caption
		if err := s.input(shape, constant); err != nil {
			return nil, err
		}
	}
	for _, c := range []struct {
		to *(*engine.Array)
		v  float32
	}{{&s.a, 1}, {&s.b, -0.1}, {&s.g, 6}, {&s.next, 499}, {&s.one, 1}, {&s.nul, 0}} {
		v := make([]float32, o.Batch)
		for i := range v {
			v[i] = c.v
		}
		if *c.to, err = e.Upload(v, o.Batch); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// overBase is a network over the teacher's own weights, with fresh tensors of its own, such as adapters.
func (s *setup) overBase(p Preset, network nn.Block, own func(name string) bool) (*engine.Params, error) {
	specs, err := nn.Trace(s.e.Backend, network, inputs(p, 1)...)
	if err != nil {
		return nil, err
	}
	var fresh []nn.Spec
	for _, spec := range specs {
		if own(spec.Name) {
			fresh = append(fresh, spec)
		}
	}
	owned, err := s.e.LoadFunc(fresh, value, own)
	if err != nil {
		return nil, err
	}
	out := engine.NewParams(specs)
	for _, spec := range specs {
		if a := owned.Get(spec.Name); a != nil {
			out.Set(spec.Name, a, true)
		} else {
			out.Set(spec.Name, s.base.Get(spec.Name), false)
		}
	}
	return out, nil
}

// input uploads an input: normal numbers, or a constant for timesteps and sizes.
func (s *setup) input(shape shapes.Shape, constant bool) error {
	rng := rand.New(rand.NewPCG(uint64(len(s.cond)), 3))
	v := make([]float32, shape.Size())
	for i := range v {
		if v[i] = 999; !constant {
			v[i] = float32(rng.NormFloat64())
		}
	}
	a, err := s.e.Upload(v, shape.Dimensions...)
	s.cond = append(s.cond, a)
	return err
}

// autoencoder prepares a VAE step: images to moments, or latents to images.
func (s *setup) autoencoder(p Preset) error {
	block, shape := p.VAE.Decoder("vae"), f32(s.o.Batch, p.Side, p.Side, p.VAE.LatentChannels)
	if s.o.Step == "vae-encode" {
		block, shape = p.VAE.Encoder("vae"), f32(s.o.Batch, p.Side*p.VAE.Factor(), p.Side*p.VAE.Factor(), 3)
	}
	small := f32(1, p.VAE.Factor(), p.VAE.Factor(), shape.Dim(3))
	specs, err := nn.Trace(s.e.Backend, block, small)
	if err != nil {
		return err
	}
	if s.base, err = s.e.LoadFunc(specs, value, nil); err != nil {
		return err
	}
	s.parameters, _ = s.base.Count()
	s.coder = &engine.Function{Key: fmt.Sprintf("bench/%s", block.Kind), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(block, in...)[:1]
	}}
	return s.input(shape, false)
}

// step does the yardstick's work once and waits for its results; queued is the time in which the host had queued it all.
func (s *setup) step() (queued time.Duration, err error) {
	start := time.Now()
	results, err := s.queue()
	queued = time.Since(start)
	for _, r := range results {
		if err == nil {
			_, err = s.e.Floats(r.Outputs[0])
		}
		r.Free()
	}
	return queued, err
}

// queue begins the yardstick's work.
func (s *setup) queue() (results []*engine.Result, err error) {
	add := func(res *engine.Result, err error) error {
		if err == nil {
			results = append(results, res)
		}
		return err
	}
	call := func(f engine.Function, bind engine.Bind) ([]*engine.Result, error) {
		out, err := s.e.Call(f, bind, s.cond...)
		return []*engine.Result{{Outputs: out}}, err
	}
	of := max(s.o.Accumulate, 1)
	step := func(i int) engine.Step { return engine.Step{LR: 1e-6, Micro: i, Of: of} }
	switch s.o.Step {
	case "vae-encode", "vae-decode":
		return call(*s.coder, engine.Bind{"vae": s.base})
	case "forward":
		return call(s.f.Predict(), engine.Bind{program.NetUNet: s.student})
	case "mse-lora", "mse-full":
		for i := range of {
			real, err := s.walk(4, &program.Guidance{Scale: s.g})
			if err != nil {
				return results, err
			}
			err = add(s.e.Train(s.f.MSE(), engine.Bind{program.NetUNet: s.student}, program.NetUNet, s.optS, step(i), s.inputs(s.a, s.b, real)...))
			real.Free()
			if err != nil {
				return results, err
			}
		}
		return results, nil
	}
	bind := engine.Bind{program.NetUNet: s.student, program.NetDisc: s.disc}
	fakes := make([]*program.Fake, of)
	defer func() {
		for _, f := range fakes {
			f.Free()
		}
	}()
	noise := s.cond[0]
	for i := range of {
		real, err := s.walk(2, nil)
		if err != nil {
			return results, err
		}
		if fakes[i], err = s.f.Fake(s.e, bind, s.optS, of, s.cond, s.a, s.b); err != nil {
			return results, err
		}
		err = add(s.e.Train(s.f.Discriminator(discriminator.Conditional), bind, program.NetDisc, s.optD, step(i),
			s.inputs(real, fakes[i].Sample, s.next, noise, s.one, s.nul)...))
		fakes[i].Shown()
		real.Free()
		if err != nil {
			return results, err
		}
	}
	for i := range of {
		err := add(s.f.GeneratorStep(s.e, bind, s.optS, step(i), discriminator.Conditional, fakes[i], s.cond, s.a, s.b,
			[]*engine.Array{s.next, noise, s.one, s.nul}))
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

func (s *setup) inputs(more ...*engine.Array) []*engine.Array {
	return append(append([]*engine.Array{}, s.cond...), more...)
}

// walk is the teacher's calls, without adapters.
func (s *setup) walk(calls int, guidance *program.Guidance) (*engine.Array, error) {
	plain := &program.Functions{UNet: s.f.UNet}
	x := s.cond[0]
	for i := range calls {
		next, err := plain.Move(s.e, s.base, append([]*engine.Array{x}, s.cond[1:]...), s.a, s.b, guidance)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			x.Free()
		}
		x = next
	}
	return x, nil
}
