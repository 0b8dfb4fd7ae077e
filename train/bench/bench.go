// Package bench times one distillation step on random weights and inputs, with the yardstick's network, work and
// JSON keys (bench/torch_baseline.py): it times, it does not train well.
package bench

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"time"

	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Preset is a network and the shape of its inputs.
type Preset struct {
	UNet   *unet.Config
	Side   int // latent side
	Tokens int
}

// Presets of the yardstick.
var Presets = map[string]Preset{
	"mini": {UNet: family([]int{32, 64, 128}, []int{1, 2, 4}, []int{1, 1, 2}, 128, 384, 32), Side: 16, Tokens: 77},
	"sdxl": {UNet: family([]int{320, 640, 1280}, []int{5, 10, 20}, []int{1, 2, 10}, 2048, 2816, 256), Side: 128, Tokens: 77},
}

func family(widths, heads, depth []int, text, added, timeDim int) *unet.Config {
	return &unet.Config{InChannels: 4, OutChannels: 4, BlockOutChannels: widths, LayersPerBlock: 2,
		DownBlockTypes:    []string{"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
		UpBlockTypes:      []string{"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"},
		TransformerLayers: depth, AttentionHeads: heads, CrossAttentionDim: text, LinearProjection: true,
		AdditionEmbedType: "text_time", AdditionTimeDim: timeDim, ProjectionDim: added, NormGroups: 32, NormEps: 1e-5,
		FlipSinToCos: true, MidBlockType: "UNetMidBlock2DCrossAttn", ActFn: "silu"}
}

// Steps that can be timed.
var Steps = []string{"forward", "mse-lora", "mse-full", "adv-lora", "adv-full"}

// Options of a measurement.
type Options struct {
	Preset, Step string
	Batch, Rank  int
	Iters        int
}

// Result has the keys of the yardstick's JSON line.
type Result struct {
	What       string  `json:"what"`
	Device     string  `json:"device"`
	Preset     string  `json:"preset"`
	Step       string  `json:"step"`
	Batch      int     `json:"batch"`
	FirstS     float64 `json:"first_s"`
	MedianMS   float64 `json:"median_ms"`
	MinMS      float64 `json:"min_ms"`
	SamplesPS  float64 `json:"samples_per_s"`
	CompileS   float64 `json:"compile_s"`
	Programs   int     `json:"programs"`
	Parameters int     `json:"parameters"`
}

// Run times one step.
func Run(e *engine.Engine, device string, o Options) (*Result, error) {
	p, ok := Presets[o.Preset]
	if !ok {
		return nil, fmt.Errorf("unknown preset %q: choose mini or sdxl", o.Preset)
	}
	s, err := newSetup(e, p, o)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := s.step(); err != nil {
		return nil, err
	}
	first := time.Since(start)
	for range 2 {
		if err := s.step(); err != nil {
			return nil, err
		}
	}
	var times []time.Duration
	for range o.Iters {
		t := time.Now()
		if err := s.step(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(t))
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	median := times[len(times)/2]
	all, _ := s.student.Count()
	stats := e.Compiled()
	return &Result{What: "fewstep", Device: device, Preset: o.Preset, Step: o.Step, Batch: o.Batch,
		FirstS: first.Seconds(), MedianMS: median.Seconds() * 1e3, MinMS: times[0].Seconds() * 1e3,
		SamplesPS: float64(o.Batch) / median.Seconds(), CompileS: stats.Seconds, Programs: stats.Programs, Parameters: all}, nil
}

type setup struct {
	e              *engine.Engine
	o              Options
	f              *program.Functions
	student, base  *engine.Params
	disc           *engine.Params
	optS, optD     *engine.Optimizer
	cond           []*engine.Array // x, t, text, pooled, ids
	a, b, g        *engine.Array
	next, one, nul *engine.Array
}

func newSetup(e *engine.Engine, p Preset, o Options) (*setup, error) {
	s := &setup{e: e, o: o, f: &program.Functions{UNet: p.UNet, Disc: &discriminator.Config{UNet: p.UNet}}}
	rng := rand.New(rand.NewPCG(1, 2))
	normal := func(_ string, v []float32) {
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
	}
	uniform := func(_ string, v []float32) {
		for i := range v {
			v[i] = rng.Float32()
		}
	}
	lora := o.Step == "mse-lora" || o.Step == "adv-lora"
	if lora {
		s.f.LoRA = &nn.LoRA{Rank: o.Rank, Scale: 8 / float64(o.Rank)}
	}
	f32 := func(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }
	ins := []shapes.Shape{f32(o.Batch, p.Side, p.Side, p.UNet.InChannels), f32(o.Batch), f32(o.Batch, p.Tokens, p.UNet.CrossAttentionDim),
		f32(o.Batch, p.UNet.PooledDim()), f32(o.Batch, unet.TimeIDs)}
	load := func(b nn.Block, trained func(string) bool) (*engine.Params, error) {
		specs, err := nn.Trace(e.Backend, b, ins...)
		if err != nil {
			return nil, err
		}
		return e.Load(specs, engine.Fresh(specs, uniform, normal), trained)
	}
	var err error
	everything := func(string) bool { return true }
	if s.base, err = load(p.UNet.Network("", nil), nil); err != nil {
		return nil, err
	}
	switch {
	case lora:
		s.student, err = load(p.UNet.Network("", s.f.LoRA), engine.IsLoRA)
	case o.Step == "forward":
		s.student = s.base
	default:
		s.student, err = load(p.UNet.Network("", nil), everything)
	}
	if err != nil {
		return nil, err
	}
	adam := engine.Adam{Beta1: 0.9, Beta2: 0.999}
	if o.Step == "adv-lora" || o.Step == "adv-full" {
		adam = engine.Adam{Beta1: 0, Beta2: 0.99}
		if s.disc, err = load(s.f.Disc.Network("", discriminator.Conditional), everything); err != nil {
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
	if lora && e.Split {
		if err := e.Materialise(s.student, *s.f.LoRA); err != nil {
			return nil, err
		}
		s.f.LoRA = nil
	}
	for i, shape := range ins {
		v := make([]float32, shape.Size())
		normal("", v)
		if i == 1 || i == 4 {
			for j := range v {
				v[j] = 999
			}
		}
		a, err := e.Upload(v, shape.Dimensions...)
		if err != nil {
			return nil, err
		}
		s.cond = append(s.cond, a)
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

// step does the yardstick's work once and waits for its result.
func (s *setup) step() error {
	switch s.o.Step {
	case "forward":
		out, err := s.e.Call(s.f.Predict(), engine.Bind{program.NetUNet: s.student}, s.cond...)
		return s.wait(out, err)
	case "mse-lora", "mse-full":
		real, err := s.walk(4, s.g)
		if err != nil {
			return err
		}
		defer real.Free()
		res, err := s.e.Train(s.f.MSE(), engine.Bind{program.NetUNet: s.student}, program.NetUNet, s.optS, engine.Step{LR: 1e-6}, s.inputs(s.a, s.b, real)...)
		return s.done(res, err)
	}
	real, err := s.walk(2, nil)
	if err != nil {
		return err
	}
	defer real.Free()
	bind := engine.Bind{program.NetUNet: s.student, program.NetDisc: s.disc}
	fake, err := s.f.Move(s.e, s.student, s.cond, s.a, s.b, nil)
	if err != nil {
		return err
	}
	defer fake.Free()
	noise := s.cond[0]
	res, err := s.e.Train(s.f.Discriminator(discriminator.Conditional), bind, program.NetDisc, s.optD, engine.Step{LR: 1e-6},
		s.inputs(real, fake, s.next, noise, s.one, s.nul)...)
	if err := s.done(res, err); err != nil {
		return err
	}
	res, err = s.e.Train(s.f.Generator(discriminator.Conditional), bind, program.NetUNet, s.optS, engine.Step{LR: 1e-6},
		s.inputs(s.a, s.b, s.next, noise, s.one, s.nul)...)
	return s.done(res, err)
}

func (s *setup) inputs(more ...*engine.Array) []*engine.Array {
	return append(append([]*engine.Array{}, s.cond...), more...)
}

// walk is the teacher's calls, without adapters.
func (s *setup) walk(calls int, guidance *engine.Array) (*engine.Array, error) {
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

func (s *setup) done(res *engine.Result, err error) error {
	if err != nil {
		return err
	}
	return s.wait(res.Outputs, nil)
}

func (s *setup) wait(out []*engine.Array, err error) error {
	if err != nil {
		return err
	}
	_, err = s.e.Floats(out[0])
	engine.Free(out...)
	return err
}
