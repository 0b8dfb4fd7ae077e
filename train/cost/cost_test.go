package cost_test

import (
	"math"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/unet"
	"fewstep/train/bench"
	"fewstep/train/cost"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

func backend(t *testing.T) *xla.Runtime {
	t.Helper()
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	return rt
}

// A block whose operations are counted by hand.
func TestFLOPsByHand(t *testing.T) {
	const b, side, cin, cout, tokens, width, heads = 2, 6, 3, 8, 5, 8, 2
	block := nn.Block{Kind: "hand", Level: nn.Layer, Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		x := s.Conv("conv", in[0], cout, 3, 2, 1)  // 3×3 outputs
		x = s.Conv("point", x, cout, 1, 1, 0)      // a product
		x = graph.Reshape(x, b, side*side/4, cout) //
		kv := s.Linear("kv", in[1], width, true)   //
		return []*graph.Node{nn.Attention(x, kv, kv, heads, nil)}
	}}
	n, err := cost.Measure(backend(t).Backend, block, dtypes.Float32, shapes.Make(dtypes.Float32, b, side, side, cin), shapes.Make(dtypes.Float32, b, tokens, width))
	if err != nil {
		t.Fatal(err)
	}
	const out = side * side / 4
	want := 2.0 * (out*cout*cin*9 + out*cout*cout + tokens*width*width + 2*out*tokens*width)
	if n.FLOPs != want {
		t.Errorf("%g FLOPs, want %g", n.FLOPs, want)
	}
	if p := int64(cout*cin*9 + cout + cout*cout + cout + width*width + width); n.Parameters != p {
		t.Errorf("%d parameters, want %d", n.Parameters, p)
	}
}

// SDXL's UNet has 2,567,463,684 parameters (the published model). Per image of 1024 pixels its layers do 6.0 T
// operations (the 3.0 T multiply-adds that counters of layers report), and attention's two products, which those
// leave out, 10·4·4096²·640 + 60·4·1024²·1280 = 0.75 T at 64×64 and 32×32 tokens, and little for the text.
func TestSDXL(t *testing.T) {
	p := bench.Presets["sdxl"]
	f := func(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }
	in := []shapes.Shape{f(1, p.Side, p.Side, 4), f(1), f(1, p.Tokens, 2048), f(1, p.UNet.PooledDim()), f(1, unet.TimeIDs)}
	b := backend(t).Backend
	whole, err := cost.Measure(b, p.UNet.Network("", nil), dtypes.BFloat16, in...)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Parameters != 2_567_463_684 || math.Abs(whole.FLOPs/6.75e12-1) > 0.01 {
		t.Errorf("%d parameters, %g FLOPs", whole.Parameters, whole.FLOPs)
	}
	adapted, err := cost.Measure(b, p.UNet.Network("", &nn.LoRA{Rank: 64, Scale: 0.125}), dtypes.BFloat16, in...)
	if err != nil {
		t.Fatal(err)
	}
	if adapted.Parameters != whole.Parameters || adapted.FLOPs <= whole.FLOPs {
		t.Errorf("adapted %+v, whole %+v", adapted, whole)
	}
	if adapted.Adapters != 196_751_360 { // the published rank-64 file's 394 MB hold 197 million fp16 values
		t.Errorf("adapters: %d", adapted.Adapters)
	}
}

func TestPlan(t *testing.T) {
	c, err := configs.Load("../../configs/sdxl/lightning.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := bench.Presets["sdxl"]
	phases, err := cost.Plan(backend(t).Backend, c, cost.Model{Denoiser: p.UNet, Schedule: distill.SDXLSchedule(), Factor: 8, Tokens: 77}, cost.Device{Flash: true})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]cost.Phase{}
	for _, ph := range phases {
		byName[ph.Stage+"/"+ph.Phase] = ph
	}
	mse, lora, full := byName["32/mse-full"], byName["8/lora-cond"], byName["8/full-uncond"]
	if mse.TeacherCalls != 8 || lora.TeacherCalls != 4 || byName["1/x0"].TeacherCalls != 1 {
		t.Errorf("teacher calls %d, %d, %d; want 4 twice for guidance, 4, 1", mse.TeacherCalls, lora.TeacherCalls, byName["1/x0"].TeacherCalls)
	}
	if mse.Updates != 1000 || mse.Samples != 512_000 || mse.Trained != 2_567_463_684 || full.Discriminator <= 800e6 || mse.Discriminator != 0 {
		t.Errorf("%+v", mse)
	}
	if lora.Checkpoint >= full.Checkpoint || lora.Memory.Total >= full.Memory.Total || full.Memory.Step <= 0 {
		t.Errorf("a LoRA phase costs %+v, a full one %+v", lora, full)
	}
	if merge := byName["8/merge"]; merge.FLOPs != 0 || merge.Samples != 0 || merge.Result != 4*2_567_463_684 {
		t.Errorf("merge %+v", merge)
	}
}
