package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"fewstep/engine"
	"fewstep/internal/atomicfile"
	"fewstep/internal/xla"

	"github.com/gomlx/compute/dtypes"
)

// A process of TestTwoProcesses knows by these what it is.
const (
	spanIndex = "FEWSTEP_TEST_SPAN" // its index of two
	spanDir   = "FEWSTEP_TEST_SPAN_DIR"
	spanGPUs  = "FEWSTEP_TEST_SPAN_GPUS" // how many GPUs there are
)

// openRuntime opens the tests' backend; in a process of TestTwoProcesses one GPU of two processes'.
func openRuntime() (*xla.Runtime, error) {
	index, err := strconv.Atoi(os.Getenv(spanIndex))
	if err != nil {
		return xla.Open(xla.Auto, xla.Options{})
	}
	gpus, err := strconv.Atoi(os.Getenv(spanGPUs))
	if err != nil {
		return nil, err
	}
	return xla.Open(xla.CUDA, xla.Options{VisibleDevices: []int{index % gpus}, MemoryFraction: 0.2, Programs: "off",
		Processes: &xla.Processes{Index: index, Count: 2, Store: folderStore(os.Getenv(spanDir))}})
}

// folderStore is a store for the processes of one machine: a file for each key.
type folderStore string

func (f folderStore) path(key string) string {
	return filepath.Join(string(f), fmt.Sprintf("key-%x", key))
}

func (f folderStore) TryGet(_ context.Context, key string) ([]byte, error) {
	return os.ReadFile(f.path(key))
}

func (f folderStore) Put(_ context.Context, key string, value []byte) error {
	return atomicfile.WriteBytes(f.path(key), value)
}

func (f folderStore) Get(ctx context.Context, key string) ([]byte, error) {
	for {
		v, err := f.TryGet(ctx, key)
		if err == nil {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// spanResult is what a process of TestTwoProcesses came to.
type spanResult struct {
	Span   *xla.Span
	States []engine.Tensors
	Told   [][]float64
}

// spanned are trainings over two processes.
var spanned = []dealing{{"tape", 0, 1, dtypes.Float32, false, nil, false, 0}, {"tape", 0.5, 3, dtypes.Float32, false, nil, false, 0}, {"fused", 0, 1, dtypes.Float32, false, nil, false, 0},
	{"tape", 0, 1, dtypes.Float32, true, nil, false, 0}, {"tape", 0.5, 3, dtypes.Float32, true, nil, false, 0}}

// TestProcessOfTwo is a process of TestTwoProcesses.
func TestProcessOfTwo(t *testing.T) {
	if os.Getenv(spanIndex) == "" {
		t.Skip("a process that TestTwoProcesses starts")
	}
	r := spanResult{Span: must[*xla.Span](t)(runtime.Span())}
	if os.Getenv(spanGPUs) != "1" { // NCCL refuses two ranks on one GPU
		for _, d := range spanned {
			d.job = &engine.Job{Span: r.Span}
			states, told := dealOut(t, runtime, d, dtypes.Float32, 1)
			r.States, r.Told = append(r.States, states[0]), append(r.Told, told)
		}
	}
	raw, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv(spanDir), "result-"+os.Getenv(spanIndex)), raw, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Two processes with a GPU each train together: both hold the same bits, those of one device up to the order of sums. On a
// machine with one GPU both find each other on it, and that is all.
func TestTwoProcesses(t *testing.T) {
	if runtime.Kind != xla.CUDA || os.Getenv(spanIndex) != "" {
		t.Skip("takes an NVIDIA GPU, better two")
	}
	dir := t.TempDir()
	var wait sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for i := range 2 {
		wait.Go(func() {
			c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestProcessOfTwo$", "-test.v")
			c.Env = append(os.Environ(), spanIndex+"="+strconv.Itoa(i), spanDir+"="+dir, spanGPUs+"="+strconv.Itoa(runtime.NumDevices()))
			if raw, err := c.CombinedOutput(); err != nil {
				t.Errorf("process %d: %v\n%s", i, err, raw)
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	var results [2]spanResult
	for i := range results {
		raw, err := os.ReadFile(filepath.Join(dir, "result-"+strconv.Itoa(i)))
		if err == nil {
			err = json.Unmarshal(raw, &results[i])
		}
		if err != nil {
			t.Fatal(err)
		}
		if s := results[i].Span; len(s.IDs) != 2 || s.First != i {
			t.Errorf("process %d sees the devices %+v", i, s)
		}
	}
	if runtime.NumDevices() < 2 {
		t.Log("one GPU: nothing was trained")
		return
	}
	for k, d := range spanned {
		want, wantTold := dealOut(t, runtime, d, dtypes.Float32, 1)
		a, b := results[0], results[1]
		sameBits(t, b.States[k], a.States[k])
		if d.shard {
			for name := range want[0] {
				if _, ok := a.States[k][name]; !ok {
					delete(want[0], name)
				}
			}
		}
		for name, v := range want[0] {
			for i := range v {
				if diff := v[i] - a.States[k][name][i]; !(diff < 1e-4 && diff > -1e-4) {
					t.Errorf("%+v: %s is %v, on one device %v", d, name, a.States[k][name], v)
					break
				}
			}
		}
		t.Logf("%+v: losses and norms %v, on one device %v", d, a.Told[k], wantTold)
	}
}
