package train

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/weights"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/gomlx/compute/dtypes"
)

// Checkpoints keep moments in the dtype in which the device does, and are refused with one clear error by a recipe that
// keeps them in another.
func TestMomentsOfAnotherType(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	finite := finite("", distill.Step{}, 0)
	optimizer := func(moments dtypes.DType) *engine.Optimizer {
		params, err := e.Load([]nn.Spec{{Name: "w", Dims: []int{3}}}, engine.Tensors{"w": {1, 2, 3}}, func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		o, err := e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9, Moments: moments}, params)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	types := map[dtypes.DType]weights.DType{dtypes.Float32: weights.F32, dtypes.BFloat16: weights.BF16}
	for kept, inFile := range types {
		path := filepath.Join(t.TempDir(), "student.optimizer.safetensors")
		if err := allOf(e, "", optimizer(kept), finite).WritePath(path); err != nil {
			t.Fatal(err)
		}
		f, err := weights.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for name, want := range map[string]weights.DType{"m.w": inFile, "v.w": inFile, "ema.w": weights.F32} {
			if tensor, err := f.Tensor(name); err != nil || tensor.DType != want {
				t.Errorf("%s is %v (%v), want %s", name, tensor.DType, err, want)
			}
		}
		for wanted := range types {
			o := optimizer(wanted)
			err := e.RestoreOptimizer(o, savedState(f, path, o), 7)
			if wanted == kept {
				if err != nil || o.Steps != 7 {
					t.Errorf("%s: %v, %d steps", kept, err, o.Steps)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "train.moments") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s moments read as %s gave error %v", kept, wanted, err)
			}
		}
	}
}

// A moment, an average or a weight that is not finite is not saved: the file that it would be in is not there afterwards.
func TestOnlyFiniteStateIsSaved(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	finite := finite(studentFile, distill.Step{StageName: "8", PhaseName: "full"}, 0)
	spec := nn.Spec{Name: "w", Dims: []int{3}}
	params, err := e.Load([]nn.Spec{spec}, engine.Tensors{"w": {1, 2, 3}}, func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "m.w", "v.w", "ema.w"} {
		for _, value := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			o, err := e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9}, params)
			if err != nil {
				t.Fatal(err)
			}
			err = e.RestoreOptimizer(o, func(s nn.Spec) ([]float32, error) {
				v := []float32{1, 2, 3}
				if s.Name == bad {
					v[1] = float32(value)
				}
				return v, nil
			}, 7)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), stateFile(method.Student))
			err = allOf(e, stateFile(method.Student), o, finite).WritePath(path)
			var n *monitor.NonFinite
			if bad == "" && err != nil || bad != "" && (!errors.As(err, &n) || !strings.Contains(n.What, bad)) {
				t.Errorf("%s = %g: %v", bad, value, err)
			}
			if _, serr := os.Stat(path); (serr == nil) != (bad == "") {
				t.Errorf("%s = %g: %v", bad, value, serr)
			}
		}
	}
	path := filepath.Join(t.TempDir(), studentFile)
	f := tensorFile(studentFile, []nn.Spec{spec}, func(nn.Spec) ([]float32, error) { return []float32{1, float32(math.NaN()), 3}, nil }, finite)
	var n *monitor.NonFinite
	if err := f.WritePath(path); !errors.As(err, &n) || n.Stage != "8" || !strings.Contains(err.Error(), `tensor "w" of student.safetensors is NaN in stage 8, phase full`) {
		t.Errorf("%v", err)
	}
}

// allOf is a file of all of an optimizer's state.
func allOf(e *engine.Engine, name string, o *engine.Optimizer, check func(string, []float32) error) rundir.File {
	specs, value := e.SaveOptimizer(o)
	return optimizerFile(name, o, specs, value, check)
}
