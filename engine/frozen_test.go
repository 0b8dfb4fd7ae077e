package engine_test

import (
	"slices"
	"testing"

	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Kernels that a tape keeps in cuDNN's order give what those in PyTorch's order give, and come back as they were loaded.
func TestFrozenKernelsAreTurned(t *testing.T) {
	const in, out, height, width = 3, 4, 3, 3
	spec := nn.Spec{Name: "one.conv.weight", Dims: []int{out, in, height, width}}
	var kernel []float32
	for i := range spec.Size() {
		kernel = append(kernel, float32(i%23-11)/8) // exact in bf16
	}
	block := nn.Block{Kind: "conv", Name: "net.one", Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{s.ConvNoBias("conv", in[0], out, height, 1, 1)}
	}}
	f := engine.Function{Key: "turned", Body: func(r nn.Runner, in []nn.Value) []nn.Value { return r.Run(block, in[0]) }}
	var image []float32
	for i := range 2 * 5 * 4 * in {
		image = append(image, float32(i%17)-8)
	}
	results := map[bool][]float32{}
	for _, turns := range []bool{false, true} {
		e := newEngine("tape", dtypes.Float32)
		if turns {
			e.Frozen = dtypes.BFloat16
		}
		p := must[*engine.Params](t)(e.Load([]nn.Spec{spec}, engine.Tensors{spec.Name: kernel}, nil))
		kept := []int{out, in, height, width}
		if turns {
			kept = []int{out, height, width, in}
		}
		if got := p.Get(spec.Name).Shape().Dimensions; !slices.Equal(got, kept) {
			t.Errorf("turned %t: kept as %v", turns, got)
		}
		back := must[engine.Tensors](t)(e.Download(p, nil))
		if !slices.Equal(back[spec.Name], kernel) {
			t.Errorf("turned %t: read back as %v", turns, back[spec.Name])
		}
		y := must[[]*engine.Array](t)(e.Call(f, engine.Bind{"net": p}, upload(t, e, image, 2, 5, 4, in)))
		results[turns] = must[[]float32](t)(e.Floats(y[0]))
	}
	if !slices.Equal(results[false], results[true]) {
		t.Errorf("%v in PyTorch's order, %v in cuDNN's", results[false], results[true])
	}
}
