package methods_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"fewstep/distill"
	"fewstep/distill/method/adversarial"
	"fewstep/distill/method/mse"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/discriminator"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/compute/dtypes"
)

var runtime *xla.Runtime

func TestMain(m *testing.M) {
	xlatest.QuickCompile()
	rt, err := xla.Open(xla.Auto, xla.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	runtime = rt
	os.Exit(m.Run())
}

// tiny is a UNet of SDXL's family with one block of each kind.
func tiny() *unet.Config {
	return &unet.Config{InChannels: 4, OutChannels: 4, BlockOutChannels: []int{8}, LayersPerBlock: []int{1},
		DownBlockTypes: []string{"CrossAttnDownBlock2D"}, UpBlockTypes: []string{"CrossAttnUpBlock2D"},
		TransformerLayers: []int{1}, AttentionHeads: []int{2}, CrossAttentionDim: 12, LinearProjection: true,
		AdditionTimeDim: 4, ProjectionDim: 30, NormGroups: 4, NormEps: 1e-5}
}

// plain is a UNet as Stable Diffusion's, which is told text and nothing else.
func plain() *unet.Config {
	c := tiny()
	c.AdditionTimeDim, c.ProjectionDim = 0, 0
	return c
}

const (
	tinyBatch  = 2
	tinySide   = 8
	tinyTokens = 3
)

// world is a tiny student and discriminator with inputs for every function.
type world struct {
	t      *testing.T
	e      *engine.Engine
	f      *program.Functions
	lora   *nn.LoRA // adapters on the student, built into the programs or materialised
	values map[string]engine.Tensors
	specs  map[string][]nn.Spec
	bind   engine.Bind
}

// newWorld makes the networks that a kind of function binds. materialise keeps adapters out of the programs.
func newWorld(t *testing.T, e *engine.Engine, kind string, lora *nn.LoRA, form discriminator.Form, materialise bool) *world {
	t.Helper()
	return newWorldOf(t, tiny(), e, kind, lora, form, materialise)
}

func newWorldOf(t *testing.T, c *unet.Config, e *engine.Engine, kind string, lora *nn.LoRA, form discriminator.Form, materialise bool) *world {
	t.Helper()
	w := &world{t: t, e: e, f: &program.Functions{Denoiser: c, Disc: &discriminator.Config{Denoiser: c}, LoRA: lora}, lora: lora,
		values: map[string]engine.Tensors{}, specs: map[string][]nn.Spec{}, bind: engine.Bind{}}
	if kind == "disc" {
		w.f.LoRA, w.f.Disc.LoRA = nil, lora
	}
	ins := family.Inputs(c, tinyBatch, tinySide, tinySide, tinyTokens)
	blocks := map[string]nn.Block{}
	if kind != "disc" {
		blocks[program.NetDenoiser] = c.Network("", lora)
	}
	if kind != "mse" {
		blocks[program.NetDisc] = w.f.Disc.Network("", form)
	}
	for name, b := range blocks {
		specs, err := nn.Trace(runtime.Backend, b, ins...)
		if err != nil {
			t.Fatal(err)
		}
		v := engine.Tensors{}
		for i, s := range specs {
			x := make([]float32, s.Size())
			distill.Normal(x, 7, distill.Init, int64(1000*len(name)+i))
			for k := range x {
				x[k] *= 0.2
				if s.Init == nn.Ones {
					x[k]++
				}
			}
			v[s.Name] = x
		}
		w.specs[name], w.values[name] = specs, v
		w.load(name)
	}
	if materialise && lora != nil {
		network := program.NetDenoiser
		if kind == "disc" {
			network = program.NetDisc
		}
		w.f.LoRA, w.f.Disc.LoRA = nil, nil
		if err := e.Materialise(w.bind[network], *lora); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) load(name string) {
	w.t.Helper()
	p, err := w.e.Load(w.specs[name], w.values[name], func(n string) bool {
		if name == program.NetDisc {
			return w.f.Disc.Trains(n)
		}
		return w.lora == nil || engine.IsLoRA(n)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.bind[name] = p
}

// rises is by how much a loss rises along its gradient by a network, per length of the way, and the gradient's norm, by
// differences over h and half of it.
func (w *world) rises(h float64, network string, loss engine.Function, in ...*engine.Array) (slope, norm float64) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	// One step of Adam without memory and with a large ε goes along the gradient itself.
	const eps = 1e4
	before := engine.Tensors{}
	for name, v := range w.values[network] {
		before[name] = slices.Clone(v)
	}
	o, err := w.e.NewOptimizer(engine.Adam{Eps: eps}, w.bind[network])
	must(err)
	res, err := w.e.Train(loss, w.bind, network, o, engine.Step{LR: eps}, in...)
	must(err)
	after, err := w.e.Download(w.bind[network], w.bind[network].Trained())
	must(err)
	norm2, err := res.Norm2()
	must(err)
	norm = math.Sqrt(norm2)
	along := func(h float64) float64 {
		for name, v := range after {
			for i := range v {
				w.values[network][name][i] = before[name][i] + float32(h/norm*float64(before[name][i]-v[i]))
			}
		}
		w.load(network)
		out, err := w.e.Call(loss, w.bind, in...)
		must(err)
		l, err := w.e.Floats(out[0])
		must(err)
		return float64(l[0])
	}
	rise := func(h float64) float64 { return (along(h) - along(-h)) / (2 * h) }
	return (4*rise(h/2) - rise(h)) / 3, norm // Richardson's: the third derivative is large
}

func tinyInputs() [][]int {
	return [][]int{{tinyBatch, tinySide, tinySide, 4}, {tinyBatch}, {tinyBatch, tinyTokens, 12}, {tinyBatch, 6}, {tinyBatch, 6}}
}

// array uploads reproducible numbers: normal, or for vectors of coefficients the given ones.
func (w *world) array(seed int64, dims ...int) *engine.Array {
	w.t.Helper()
	n := 1
	for _, d := range dims {
		n *= d
	}
	v := make([]float32, n)
	distill.Normal(v, 11, distill.Noise, seed)
	return w.upload(v, dims...)
}

func (w *world) upload(v []float32, dims ...int) *engine.Array {
	w.t.Helper()
	a, err := w.e.Upload(v, dims...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// inputs are a function's: a network's, and more.
func inputs(in []*engine.Array, more ...*engine.Array) []*engine.Array {
	return slices.Concat(in, more)
}

func (w *world) vector(v ...float32) *engine.Array { return w.upload(v, len(v)) }

func (w *world) conditions() []*engine.Array {
	d := tinyInputs()
	if len(w.f.Denoiser.Conditions(tinyTokens)) == 1 {
		return []*engine.Array{w.array(1, d[0]...), w.vector(999, 499), w.array(2, d[2]...)}
	}
	return []*engine.Array{w.array(1, d[0]...), w.vector(999, 499), w.array(2, d[2]...), w.array(3, d[3]...), w.upload([]float32{64, 64, 0, 0, 64, 64, 64, 64, 0, 0, 64, 64}, d[4]...)}
}

func (w *world) inputs(kind string) []*engine.Array {
	x := tinyInputs()[0]
	c := w.conditions()
	switch kind {
	case "mse":
		return append(c, w.vector(0.9, 0.8), w.vector(-0.3, 0.2), w.array(4, x...))
	case "disc":
		return append(c, w.array(5, x...), w.array(6, x...), w.vector(499, 249), w.array(7, x...), w.vector(0.9, 1), w.vector(0.2, 0))
	}
	return append(c, w.vector(0.9, 0.8), w.vector(-0.3, 0.2), w.vector(499, 249), w.array(7, x...), w.vector(0.9, 1), w.vector(0.2, 0))
}

func (w *world) function(kind string, form discriminator.Form) (engine.Function, string) {
	switch kind {
	case "mse":
		return mse.Loss(w.f), program.NetDenoiser
	case "disc":
		return adversarial.Discriminator(w.f, adversarial.R1{}, form), program.NetDisc
	}
	return adversarial.Generator(w.f, form), program.NetDenoiser
}

// trainOnce takes one optimizer step over micro-batches and returns the loss and the trained tensors afterwards.
func (w *world) trainOnce(kind string, form discriminator.Form, adam engine.Adam, micro int) (float64, engine.Tensors, float64) {
	w.t.Helper()
	f, network := w.function(kind, form)
	o, err := w.e.NewOptimizer(adam, w.bind[network])
	if err != nil {
		w.t.Fatal(err)
	}
	in := w.inputs(kind)
	var loss, norm float64
	for step := range 2 {
		for k := range micro {
			r, err := w.e.Train(f, w.bind, network, o, engine.Step{LR: 1e-3 * float64(step+1), Micro: k, Of: micro}, in...)
			if err != nil {
				w.t.Fatal(err)
			}
			v, err := w.e.Floats(r.Outputs[0])
			if err != nil {
				w.t.Fatal(err)
			}
			loss = float64(v[0])
			if norm, err = r.Norm2(); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	after, err := w.e.Download(w.bind[network], w.bind[network].Trained())
	if err != nil {
		w.t.Fatal(err)
	}
	return loss, after, norm
}

// Every way of training must do what one monolithic GoMLX gradient does: the tape at both of its granularities, and
// the gradient split off its update, with adapters materialised.
func TestTapeEqualsMonolith(t *testing.T) {
	// Against a gradient at rounding level, Adam's step would be a coin's toss of size lr: hence a large eps.
	const eps = 1e-3
	lora := &nn.LoRA{Rank: 2, Scale: 0.5}
	cases := []struct {
		kind  string
		lora  *nn.LoRA
		form  discriminator.Form
		adam  engine.Adam
		n     int
		modes []string
	}{
		{"mse", lora, discriminator.Conditional, engine.Adam{Beta1: 0.9, Beta2: 0.999, EMA: 0.5, WeightDecay: 0.1, ClipNorm: 0.02, Eps: eps}, 2, []string{"split", "layer"}},
		{"disc", nil, discriminator.Conditional, engine.Adam{Beta2: 0.99, WeightDecay: 0.1, Eps: eps}, 1, []string{"split"}},
		{"disc", lora, discriminator.Conditional, engine.Adam{Beta2: 0.99, Eps: eps}, 2, []string{"split", "layer"}},
		{"disc", nil, discriminator.Unconditional, engine.Adam{Beta2: 0.99, ClipNorm: 0.01, Eps: eps}, 2, []string{"stage", "split"}},
	}
	engines := map[string]*engine.Engine{
		"monolith": engine.New(runtime.Backend, dtypes.Float32, nn.Network),
		"split":    engine.New(runtime.Backend, dtypes.Float32, nn.Network),
		"stage":    engine.New(runtime.Backend, dtypes.Float32, nn.Stage),
		"layer":    engine.New(runtime.Backend, dtypes.Float32, nn.Layer),
	}
	engines["split"].Split = true
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s-%t-%s", c.kind, c.lora != nil, c.form), func(t *testing.T) {
			t.Parallel()
			loss, want, norm := newWorld(t, engines["monolith"], c.kind, c.lora, c.form, false).trainOnce(c.kind, c.form, c.adam, c.n)
			for _, mode := range c.modes {
				w := newWorld(t, engines[mode], c.kind, c.lora, c.form, mode == "split")
				gotLoss, got, gotNorm := w.trainOnce(c.kind, c.form, c.adam, c.n)
				if math.Abs(gotLoss-loss) > 1e-5*math.Abs(loss) {
					t.Errorf("%s: loss %g, want %g", mode, gotLoss, loss)
				}
				if math.Abs(gotNorm-norm) > 1e-3*norm {
					t.Errorf("%s: norm² %g, want %g", mode, gotNorm, norm)
				}
				if len(got) != len(want) {
					t.Errorf("%s: %d trained tensors, want %d", mode, len(got), len(want))
				}
				worst, where := 0.0, ""
				for name, v := range want {
					for i := range v {
						if d := math.Abs(float64(v[i] - got[name][i])); d > worst {
							worst, where = d, name
						}
					}
				}
				t.Logf("%s: largest difference %.2g (%s); compiled %v", mode, worst, where, engines[mode].Compiled())
				if worst > 2e-5 { // of steps of 1e-3 and 2e-3
					t.Errorf("%s: parameter %s differs by %g", mode, where, worst)
				}
			}
		})
	}
}

// A denoiser of other conditions is trained by the same functions: at every granularity as in one program, and by all of
// the method's losses.
func TestOtherConditions(t *testing.T) {
	lora := &nn.LoRA{Rank: 2, Scale: 0.5}
	for _, c := range []struct {
		kind string
		lora *nn.LoRA
		form discriminator.Form
	}{{"mse", lora, ""}, {"disc", nil, discriminator.Conditional}, {"gen", nil, discriminator.Unconditional}} {
		t.Run(c.kind, func(t *testing.T) {
			adam := engine.Adam{Beta2: 0.99, Eps: 1e-3}
			loss, want, _ := newWorldOf(t, plain(), engine.New(runtime.Backend, dtypes.Float32, nn.Network), c.kind, c.lora, c.form, false).trainOnce(c.kind, c.form, adam, 1)
			gotLoss, got, _ := newWorldOf(t, plain(), engine.New(runtime.Backend, dtypes.Float32, nn.Layer), c.kind, c.lora, c.form, false).trainOnce(c.kind, c.form, adam, 1)
			if math.Abs(gotLoss-loss) > 1e-5*math.Abs(loss) || len(got) != len(want) || len(want) == 0 {
				t.Fatalf("loss %g and %g, %d and %d tensors", gotLoss, loss, len(got), len(want))
			}
			for name, v := range want {
				for i := range v {
					if d := math.Abs(float64(v[i] - got[name][i])); d > 2e-5 {
						t.Fatalf("%s differs by %g", name, d)
					}
				}
			}
		})
	}
}
