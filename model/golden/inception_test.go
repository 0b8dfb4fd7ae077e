package golden

import (
	"fmt"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/internal/drawn"
	"fewstep/model/inception"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// TestInception compares the features at all depths with pytorch-fid's, whole and module by module.
func TestInception(t *testing.T) {
	rt := backend(t)
	want := golden(t, "inception")
	stateDict, err := inception.StateDict(rt.Backend)
	if err != nil {
		t.Fatal(err)
	}
	classifier := []nn.Spec{{Name: "fc.weight", Dims: []int{1008, 2048}}, {Name: "fc.bias", Dims: []int{1008}}}
	comparison{folder: "inception"}.sameParameters(t, append(stateDict, classifier...))
	tensors := engine.Tensors{}
	for _, s := range stateDict {
		tensors[s.Name] = drawn.Inception(s.Name, s.Dims)
	}
	for _, c := range []struct {
		name        string
		image       string
		last        inception.LastPool
		dims        []int // NCHW
		granularity nn.Level
		compute     dtypes.DType
		tolerance   float64
	}{
		{"full", "full", inception.Max, []int{1, 3, 299, 299}, nn.Network, dtypes.Float32, forwardTolerance},
		{"odd", "odd", inception.Max, []int{2, 3, 107, 139}, nn.Layer, dtypes.Float32, forwardTolerance},
		{"odd", "odd", inception.Max, []int{2, 3, 107, 139}, nn.Network, dtypes.BFloat16, bfloat16Tolerance},
		{"average", "odd", inception.Average, []int{2, 3, 107, 139}, nn.Layer, dtypes.Float32, forwardTolerance}, // Keras's
	} {
		t.Run(fmt.Sprintf("%s %s", c.name, c.compute), func(t *testing.T) {
			e := engine.New(rt.Backend, c.compute, c.granularity)
			specs, err := inception.Parameters(rt.Backend, c.last)
			if err != nil {
				t.Fatal(err)
			}
			params, err := e.LoadFunc(specs, func(s nn.Spec) ([]float32, error) { return inception.Fold(tensors, s) }, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer params.FreeAll()
			image := array{dims: c.dims}
			for _, v := range drawn.Uniform("inception."+c.image, shapes.Make(dtypes.Float32, c.dims...).Size()) {
				image.values = append(image.values, float32(v))
			}
			image = channelsLast(image)
			in, err := e.Upload(image.values, image.dims...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := e.Call(engine.Function{Key: "inception", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
				return r.Run(inception.Network("net", c.last), in...)
			}}, engine.Bind{"net": params}, in)
			if err != nil {
				t.Fatal(err)
			}
			for i, depth := range inception.Depths {
				name := fmt.Sprintf("out.%s.%d", c.name, depth)
				if _, ok := want[name]; !ok && c.last == inception.Average {
					continue // the same as with the maximum
				}
				values, err := e.Floats(got[i])
				if err != nil {
					t.Fatal(err)
				}
				if err := close(values, got[i].Shape().Dimensions, want[name], c.tolerance); err != nil {
					t.Errorf("depth %d: %v", depth, err)
				}
			}
		})
	}
}

func TestUnknownPooling(t *testing.T) {
	_, err := nn.Trace(backend(t).Backend, inception.Network("", "middle"), shapes.Make(dtypes.Float32, 1, 75, 75, 3))
	if err == nil || !strings.Contains(err.Error(), `"middle"`) {
		t.Errorf("error %v", err)
	}
}
