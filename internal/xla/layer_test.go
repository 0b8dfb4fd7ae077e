package xla

import (
	"bytes"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// compiled builds a program of n vectors of a size and compiles it with aliases.
func compiled(t *testing.T, rt *Runtime, aliases map[int]int, n, size int, body func(in []*graph.Node) []*graph.Node) compute.Executable {
	t.Helper()
	g := graph.NewGraph(rt.Backend, "test")
	var in []*graph.Node
	for i := range n {
		in = append(in, graph.Parameter(g, string(rune('a'+i)), shapes.Make(dtypes.Float32, size)))
	}
	out := body(in)
	if _, err := Compile(aliases, nil, func() error { return g.Compile(out...) }); err != nil {
		t.Fatal(err)
	}
	return g.Executable()
}

func vector(t *testing.T, rt *Runtime, v ...float32) compute.Buffer {
	t.Helper()
	b, err := rt.Backend.BufferFromFlatData(0, v, shapes.Make(dtypes.Float32, len(v)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// address is where a buffer of a CPU plugin lies.
func address(t *testing.T, b compute.Buffer) *float32 {
	t.Helper()
	flat, err := b.Data()
	if err != nil {
		t.Fatal(err)
	}
	return &flat.([]float32)[0]
}

func read(t *testing.T, b compute.Buffer, n int) []float32 {
	t.Helper()
	out := make([]float32, n)
	if err := b.ToFlatData(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// swap has two outputs, each of the shape of both inputs: a's buffer may hold either.
func swap(in []*graph.Node) []*graph.Node {
	return []*graph.Node{graph.AddScalar(in[1], 1), graph.MulScalar(in[0], 2)}
}

// A donated input is the very memory of the output that it is aliased to.
func TestAliasedInputIsItsOutput(t *testing.T) {
	for _, plain := range []bool{false, true} {
		rt := cpuOrSkip(t, Options{Plain: plain, Programs: "off"})
		exec := compiled(t, rt, map[int]int{0: 1}, 2, 64, swap)
		a, b := make([]float32, 64), make([]float32, 64)
		for i := range a {
			a[i], b[i] = float32(i), float32(-i)
		}
		for range 3 { // the same program, with the input donated or not
			for _, donated := range []bool{true, false} {
				in := []compute.Buffer{vector(t, rt, a...), vector(t, rt, b...)}
				before := address(t, in[0])
				out, err := exec.Execute(in, []bool{donated, false}, 0)
				if err != nil {
					t.Fatal(err)
				}
				first, second := read(t, out[0], 64), read(t, out[1], 64)
				for i := range a {
					if first[i] != b[i]+1 || second[i] != 2*a[i] {
						t.Fatalf("plain %t, donated %t: outputs %v, %v", plain, donated, first, second)
					}
				}
				same := address(t, out[1]) == before
				if same != (donated && !plain) {
					t.Errorf("plain %t, donated %t: the output is in the input's memory: %t", plain, donated, same)
				}
				if !donated && read(t, in[0], 64)[5] != 5 {
					t.Error("an input that was not donated has changed")
				}
			}
		}
	}
}

func TestAliasesRefused(t *testing.T) {
	rt := cpuOrSkip(t, Options{Programs: "off"})
	g := graph.NewGraph(rt.Backend, "test")
	x := graph.Parameter(g, "x", shapes.Make(dtypes.Float32, 4))
	_, err := Compile(map[int]int{3: 0}, nil, func() error { return g.Compile(graph.Neg(x)) })
	if err == nil || !strings.Contains(err.Error(), "not an input 3") {
		t.Errorf("error %v", err)
	}
}

func TestWithAliases(t *testing.T) {
	const before = "module @x {\n  func.func @main(%0: tensor<2x3xf32>, %1: tuple<tensor<f32>, tensor<(i32)>>, %2: tensor<4xbf16>) -> tensor<f32> {\n"
	got, err := withAliases(before, map[int]int{2: 0, 0: 7})
	want := "module @x {\n  func.func @main(%0: tensor<2x3xf32> {tf.aliasing_output = 7 : i32}, %1: tuple<tensor<f32>, tensor<(i32)>>, %2: tensor<4xbf16> {tf.aliasing_output = 0 : i32}) -> tensor<f32> {\n"
	if err != nil || got != want {
		t.Errorf("%v:\n%s", err, got)
	}
	if _, err := withAliases("func.func @main(%0: tensor<f32> {a = 1}) {", map[int]int{0: 0}); err == nil {
		t.Error("attributes were overwritten")
	}
}

// Whatever the text, the result is the text with the attributes added, or an error.
func FuzzWithAliases(f *testing.F) {
	f.Add("func.func @main(%0: tensor<f32>, %1: tensor<2xf32>) -> ", 1)
	f.Add("func.func @main() {", 0)
	f.Add("func.func @main(%0: a<b", 0)
	f.Add("func.func @main(%0: a) func.func @main(", -1)
	f.Fuzz(func(t *testing.T, text string, input int) {
		got, err := withAliases(text, map[int]int{input: 3})
		if err == nil && strings.Replace(got, " {tf.aliasing_output = 3 : i32}", "", 1) != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}

// The second client that compiles a program takes it from the folder, with the same result; a damaged entry is
// compiled and written again; one client's aliases are another program.
func TestProgramCache(t *testing.T) {
	dir := t.TempDir()
	run := func(aliases map[int]int) CacheStats {
		t.Helper()
		useless := cpuOrSkip(t, Options{Programs: "off"}) // forgets what was counted
		useless.Close()
		rt := cpuOrSkip(t, Options{Programs: dir})
		exec := compiled(t, rt, aliases, 2, 3, swap)
		in := []compute.Buffer{vector(t, rt, 1, 2, 3), vector(t, rt, 4, 5, 6)}
		before := address(t, in[0])
		out, err := exec.Execute(in, []bool{true, false}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, out[1], 3); got[0] != 2 || got[2] != 6 {
			t.Errorf("outputs %v", got)
		}
		if same := address(t, out[1]) == before; same != (len(aliases) > 0) {
			t.Errorf("aliases %v, in the input's memory: %t", aliases, same)
		}
		return rt.CacheStats()
	}
	alias := map[int]int{0: 1}
	first := run(alias)
	if first.Off != "" {
		t.Skip(first.Off)
	}
	if first.Saves != 1 || first.Hits != 0 {
		t.Fatalf("first: %+v", first)
	}
	if again := run(alias); again.Saves != 0 || again.Hits != 1 {
		t.Fatalf("again: %+v", again)
	}
	if other := run(nil); other.Saves != 1 || other.Hits != 0 {
		t.Errorf("other aliases: %+v", other)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 2 {
		t.Fatalf("files %v", files)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(f, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var told bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&told, nil)))
	damaged := run(alias)
	slog.SetDefault(before)
	if damaged.Saves != 1 || damaged.Hits != 0 {
		t.Errorf("damaged: %+v", damaged)
	}
	if n := strings.Count(told.String(), "is damaged"); n != 1 {
		t.Errorf("told %d times of one damaged program:\n%s", n, &told)
	}
	if again := run(alias); again.Hits != 1 {
		t.Errorf("after the repair: %+v", again)
	}
}

// Of goroutines that compile one program at once, one compiles and the others take what it kept.
func TestProgramCacheCompilesOnce(t *testing.T) {
	cpuOrSkip(t, Options{Programs: "off"}).Close() // forgets what was counted
	rt := cpuOrSkip(t, Options{Programs: t.TempDir()})
	const n = 4
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() { compiled(t, rt, nil, 2, 3, swap) })
	}
	wait.Wait()
	s := rt.CacheStats()
	if s.Off != "" {
		t.Skip(s.Off)
	}
	if s.Saves != 1 || s.Hits != n-1 {
		t.Errorf("%+v", s)
	}
}

// Work is queued, not awaited; what it fails with (here, for want of memory) comes when its result is read, through
// other programs too.
func TestErrorsOfQueuedWork(t *testing.T) {
	rt := cpuOrSkip(t, Options{Programs: "off"})
	exec := compiled(t, rt, nil, 2, 3, swap)
	huge := compiled(t, rt, nil, 1, 1, func(in []*graph.Node) []*graph.Node {
		long := graph.Sin(graph.BroadcastToDims(in[0], 1<<46))
		return []*graph.Node{graph.SliceAxis(graph.CumSum(long, 0), 0, graph.AxisRange(0, 3))}
	})
	out, err := huge.Execute([]compute.Buffer{vector(t, rt, 1)}, nil, 0)
	for range 3 {
		if err != nil {
			t.Fatalf("queueing work returned its failure: %v", err)
		}
		out, err = exec.Execute([]compute.Buffer{out[0], out[0]}, nil, 0)
	}
	if err == nil {
		err = out[0].ToFlatData(make([]float32, 3))
	}
	if err == nil || !strings.Contains(err.Error(), "Out of memory") {
		t.Errorf("error %v", err)
	}
	out, err = exec.Execute([]compute.Buffer{vector(t, rt, 1, 2, 3), vector(t, rt, 1, 2, 3)}, nil, 0)
	if err != nil || read(t, out[0], 3)[0] != 2 {
		t.Errorf("work after a failure: %v", err)
	}
}

// A long chain of programs gives the same bits with and without the layer.
func TestLayerChangesNoResult(t *testing.T) {
	var results [2][]float32
	for i, plain := range []bool{false, true} {
		rt := cpuOrSkip(t, Options{Plain: plain, Programs: "off"})
		exec := compiled(t, rt, map[int]int{0: 0, 1: 1}, 2, 4, func(in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.Sin(graph.Add(in[0], in[1])), graph.Exp(graph.Sub(in[1], in[0]))}
		})
		state := []compute.Buffer{vector(t, rt, 1, 2, 3, 4), vector(t, rt, 0.1, 0.2, 0.3, 0.4)}
		for range 100 {
			out, err := exec.Execute(state, []bool{true, true}, 0)
			if err != nil {
				t.Fatal(err)
			}
			state = out
		}
		results[i] = append(read(t, state[0], 4), read(t, state[1], 4)...)
	}
	for i, v := range results[0] {
		if math.Float32bits(v) != math.Float32bits(results[1][i]) {
			t.Fatalf("%v with the layer, %v without", results[0], results[1])
		}
	}
}
