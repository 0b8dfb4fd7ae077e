package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/distill/methods"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/shapes"
)

// setup is everything that a step works on.
type setup struct {
	e          *engine.Engine
	do         func() ([]*engine.Result, error) // begins the step's work
	parameters int
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

// recipe is one of a single phase, whose update is the step.
func recipe(p Preset, o Options) *configs.Recipe {
	c := configs.Default()
	c.Data.Resolution = p.Side * p.VAE.Factor()
	t := &c.Train
	t.Batch, t.Accumulate, t.Moments, t.AdamEpsilon = o.Batch, max(o.Accumulate, 1), "f32", 1e-8
	if o.Moments == method.ComputeTypes["bf16"] {
		t.Moments = "bf16"
	}
	c.LoRA = configs.LoRA{Rank: o.Rank, Alpha: 8}
	c.Discriminator.HeadGroups = 0
	if o.Critic == "lora" {
		c.Discriminator.Target = configs.TargetLoRA
	}
	stage := configs.Stage{Name: o.Step, Loss: configs.LossMSE, TeacherSteps: 128, StudentSteps: 32, Guidance: 6}
	phase := configs.Phase{Name: o.Step, Kind: configs.KindMSE, Target: configs.TargetFull, Teacher: configs.TeacherStage, Samples: 1, LR: 1e-6, Beta1: 0.9, Beta2: 0.999}
	if isLoRA(o.Step) {
		phase.Target = configs.TargetLoRA
	}
	if adversarial(o.Step) {
		stage.Loss, stage.TeacherSteps, stage.StudentSteps, stage.Guidance = configs.LossAdversarial, 16, 8, 0
		phase.Kind, phase.Form, phase.Beta1, phase.Beta2 = configs.KindAdversarial, configs.FormConditional, 0, 0.99
	}
	stage.Phases = []configs.Phase{phase}
	c.Stages = []configs.Stage{stage}
	return c
}

// random are weights for every network.
type random struct{}

func (random) any() (*method.Values, error) {
	return &method.Values{Value: value, Close: func() error { return nil }}, nil
}
func (random) Empty() family.Conditions                             { return nil }
func (r random) Frozen(distill.Model) (*method.Values, error)       { return r.any() }
func (r random) Adapters(distill.Artifact) (*method.Values, error)  { return r.any() }
func (r random) Student(distill.Step) (*method.Values, error)       { return r.any() }
func (r random) Discriminator(distill.Step) (*method.Values, error) { return r.any() }

// same gives the same micro-batch again and again.
type same struct{ in *method.Inputs }

func (s same) Take(int64) (*method.Inputs, error) { return s.in.Lent(), nil }
func (s same) Wait()                              {}

// newSetup prepares a device's part of a step.
func newSetup(e *engine.Engine, p Preset, o Options, rank int) (*setup, error) {
	s := &setup{e: e}
	if o.Step == "vae-encode" || o.Step == "vae-decode" {
		return s, s.autoencoder(p, o)
	}
	c := recipe(p, o)
	n := &method.Networks{Engine: e, Recipe: c, Denoiser: p.UNet, Weights: random{}, Trace: method.Tracer(e, inputs(p, 1))}
	if o.Step == "forward" {
		return s, s.forward(n, inputs(p, o.Batch/max(o.Devices, 1)))
	}
	steps, err := distill.Plan(c, distill.Epsilon)
	if err != nil {
		return nil, err
	}
	how, err := methods.Of(steps[0].Kind)
	if err != nil {
		return nil, err
	}
	session, err := method.New(n, how, distill.SDXLSchedule(), steps[0], inputs(p, 1))
	if err != nil {
		return nil, err
	}
	session.On(rank, max(o.Devices, 1))
	if err := session.Load(); err != nil {
		return nil, err
	}
	if err := session.Optimize(); err != nil {
		return nil, err
	}
	s.parameters, _ = session.Params(method.Student).Count()
	var h method.Host
	if err := session.Draw(&h, 0); err != nil {
		return nil, err
	}
	for i, v := range append(append([][]float32{h.X}, h.Conditions...), h.Noises...) {
		fill(v, i)
	}
	in, err := session.Upload(&h)
	if err != nil {
		return nil, err
	}
	session.Source = same{in}
	s.do = func() (results []*engine.Result, err error) {
		err = session.Update()
		for _, r := range session.Results {
			results = append(results, r.Result)
		}
		return results, err
	}
	return s, nil
}

// fill makes normal numbers.
func fill(v []float32, seed int) {
	rng := rand.New(rand.NewPCG(uint64(seed), 3))
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
}

// forward prepares a network call.
func (s *setup) forward(n *method.Networks, in []shapes.Shape) error {
	model, _, err := n.Frozen(distill.Model{Full: distill.Base})
	if err != nil {
		return err
	}
	s.parameters, _ = model.Count()
	return s.calls((&program.Functions{Denoiser: n.Denoiser}).Predict(), engine.Bind{program.NetDenoiser: model}, in)
}

// calls prepares a function's call on random inputs.
func (s *setup) calls(f engine.Function, bind engine.Bind, in []shapes.Shape) error {
	var arrays []*engine.Array
	for i, shape := range in {
		v := make([]float32, shape.Size())
		fill(v, i)
		a, err := s.e.Upload(v, shape.Dimensions...)
		if err != nil {
			return err
		}
		arrays = append(arrays, a)
	}
	s.do = func() ([]*engine.Result, error) {
		out, err := s.e.Call(f, bind, arrays...)
		return []*engine.Result{{Outputs: out}}, err
	}
	return nil
}

// autoencoder prepares a VAE step: images to moments, or latents to images.
func (s *setup) autoencoder(p Preset, o Options) error {
	batch := o.Batch / max(o.Devices, 1)
	block, shape := p.VAE.Decoder("vae"), f32(batch, p.Side, p.Side, p.VAE.LatentChannels)
	if o.Step == "vae-encode" {
		block, shape = p.VAE.Encoder("vae"), f32(batch, p.Side*p.VAE.Factor(), p.Side*p.VAE.Factor(), 3)
	}
	specs, err := nn.Trace(s.e.Backend, block, f32(1, p.VAE.Factor(), p.VAE.Factor(), shape.Dim(3)))
	if err != nil {
		return err
	}
	params, err := s.e.LoadFunc(specs, value, nil)
	if err != nil {
		return err
	}
	s.parameters, _ = params.Count()
	f := engine.Function{Key: fmt.Sprintf("bench/%s", block.Kind), Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(block, in...)[:1] }}
	return s.calls(f, engine.Bind{"vae": params}, []shapes.Shape{shape})
}

// step does the step's work once and waits for its results; queued is the time in which the host had queued it all.
func (s *setup) step() (queued time.Duration, err error) {
	start := time.Now()
	results, err := s.do()
	queued = time.Since(start)
	for _, r := range results {
		if err == nil {
			_, err = s.e.Floats(r.Outputs[0])
		}
		r.Free()
	}
	return queued, err
}
