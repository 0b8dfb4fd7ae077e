package xla

import (
	"errors"
	"os"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"

	"fewstep/internal/xla/xlatest"
)

// pluginOrSkip opens the best plugin there is: CUDA's where there is a GPU.
func pluginOrSkip(t *testing.T) *Runtime {
	t.Helper()
	rt, err := Open(Auto, Options{Programs: "off"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	if rt.Kind == Go {
		xlatest.Missing(t, rt.Notes)
	}
	return rt
}

// What goes to the host's memory and back, through a program that takes its input's memory, has the same bits, whoever
// frees what at once; copies are queued behind the programs that make what they copy.
func TestHostMemory(t *testing.T) {
	rt := pluginOrSkip(t)
	const n = 1 << 18
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i) - 7.5
	}
	double := compiled(t, rt, map[int]int{0: 0}, 1, n, func(in []*graph.Node) []*graph.Node { return []*graph.Node{graph.MulScalar(in[0], 2)} })
	host, err := UploadToHost(rt.Backend, 0, v, shapes.Make(dtypes.Float32, n))
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		in, err := ToDevice(host, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := host.Finalize(); err != nil {
			t.Fatal(err)
		}
		out, err := double.Execute([]compute.Buffer{in}, []bool{true}, 0)
		if err != nil {
			t.Fatal(err)
		}
		back, done, err := ToHost(out[0], 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := out[0].Finalize(); err != nil {
			t.Fatal(err)
		}
		if err := done.Wait(); err != nil {
			t.Fatal(err)
		}
		host = back
	}
	for i, got := range read(t, host, n) {
		if got != 64*v[i] {
			t.Fatalf("element %d is %g, want %g", i, got, 64*v[i])
		}
	}
}

// A copy of what could not be computed says so when it is waited for.
func TestHostMemoryOfFailedWork(t *testing.T) {
	rt := cpuOrSkip(t, Options{Programs: "off"})
	huge := compiled(t, rt, nil, 1, 1, func(in []*graph.Node) []*graph.Node {
		long := graph.Sin(graph.BroadcastToDims(in[0], 1<<46))
		return []*graph.Node{graph.SliceAxis(graph.CumSum(long, 0), 0, graph.AxisRange(0, 3))}
	})
	out, err := huge.Execute([]compute.Buffer{vector(t, rt, 1)}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, done, err := ToHost(out[0], 0)
	if err == nil {
		err = done.Wait()
	}
	if err == nil || errors.Is(err, ErrNoHostMemory) {
		t.Errorf("error %v", err)
	}
}

// Work that the device's memory is not enough for is told from other failures.
func TestOutOfMemory(t *testing.T) {
	rt := cpuOrSkip(t, Options{Programs: "off"})
	huge := compiled(t, rt, nil, 1, 1, func(in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.BroadcastToDims(in[0], 1<<42)}
	})
	out, err := huge.Execute([]compute.Buffer{vector(t, rt, 1)}, nil, 0)
	if err == nil {
		err = out[0].ToFlatData(make([]float32, 1))
	}
	if !OutOfMemory(err) {
		t.Errorf("error %v", err)
	}
	if OutOfMemory(nil) || OutOfMemory(errors.New("code=80 of something")) {
		t.Error("other errors are taken for it")
	}
}

// Where there is no such memory, the error says what it takes; later uploads lie where they always did.
func TestNoHostMemory(t *testing.T) {
	pure, err := Open(Go, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, rt := range map[string]*Runtime{"go": pure, "plain": cpuOrSkip(t, Options{Plain: true})} {
		if _, err := UploadToHost(rt.Backend, 0, []float32{1, 2}, shapes.Make(dtypes.Float32, 2)); !errors.Is(err, ErrNoHostMemory) {
			t.Errorf("%s: %v", name, err)
		}
		b := vector(t, rt, 3, 4)
		if _, _, err := ToHost(b, 0); !errors.Is(err, ErrNoHostMemory) {
			t.Errorf("%s: %v", name, err)
		}
		if got := read(t, b, 2); got[1] != 4 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLimitHostMemory(t *testing.T) {
	for _, c := range []struct {
		user, want string
		bytes      int64
	}{{"", "", 0}, {"", "7", 4 << 30}, {"", "26", 20_644_823_040}, {"30", "30", 4 << 30}} {
		t.Setenv(hostLimitEnv, c.user)
		limitHostMemory(c.bytes)
		if got := os.Getenv(hostLimitEnv); got != c.want {
			t.Errorf("%d bytes, user's %q: %q, want %q", c.bytes, c.user, got, c.want)
		}
	}
}
