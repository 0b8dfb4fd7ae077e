package engine_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"

	"github.com/gomlx/compute/dtypes"
)

// meeting adds vectors up over goroutines that stand for processes.
type meeting struct {
	mu    sync.Mutex
	wake  *sync.Cond
	nodes int
	round int
	parts [][]float32 // of this round, by rank
	sums  [][]float32 // by round
	here  int
}

type attendant struct {
	*meeting
	rank int
	seen *int
}

func newMeeting(nodes int) *meeting {
	m := &meeting{nodes: nodes, parts: make([][]float32, nodes)}
	m.wake = sync.NewCond(&m.mu)
	return m
}

func (a attendant) Rank() int  { return a.rank }
func (a attendant) Nodes() int { return a.nodes }

func (a attendant) Sum(_ context.Context, v []float32) error {
	m := a.meeting
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[a.rank] = append([]float32{}, v...)
	if m.here++; m.here == m.nodes {
		sum := make([]float32, len(v))
		for _, p := range m.parts {
			if len(p) != len(v) {
				return fmt.Errorf("%d numbers and %d", len(p), len(v))
			}
			for i := range p {
				sum[i] += p[i]
			}
		}
		m.sums, m.here = append(m.sums, sum), 0
		m.wake.Broadcast()
	}
	for len(m.sums) <= *a.seen {
		m.wake.Wait()
	}
	copy(v, m.sums[*a.seen])
	*a.seen++
	return nil
}

// acrossHosts is dealOut by two processes, which goroutines stand for, with n devices each: what each ended with.
func acrossHosts(t *testing.T, rts []*xla.Runtime, d dealing, compute dtypes.DType, n int) (states [][]engine.Tensors, told [][]float64) {
	t.Helper()
	m := newMeeting(len(rts))
	states, told = make([][]engine.Tensors, len(rts)), make([][]float64, len(rts))
	var wait sync.WaitGroup
	for rank, rt := range rts {
		wait.Go(func() {
			d := d
			d.job = &engine.Job{Hosts: attendant{m, rank, new(int)}}
			states[rank], told[rank] = dealOut(t, rt, d, compute, n)
		})
	}
	wait.Wait()
	return states, told
}

// Two processes that add up through their hosts' memory train as one device does, up to rounding, and end with the same bits;
// also where each has two devices, state is dealt out over all four, or the backend has no collectives at all.
func TestHostsTrainAsOneDevice(t *testing.T) {
	plain := must[*xla.Runtime](t)(xla.Open(xla.Go, xla.Options{}))
	backends := map[string]*xla.Runtime{"go": plain, "cpu": virtual(t, 2)}
	for name, rt := range backends {
		for _, n := range []int{1, 2} {
			if n > rt.NumDevices() {
				continue
			}
			for _, mode := range modes {
				for _, d := range []dealing{{mode, 0, 1, dtypes.Float32, false, nil, false, 0}, {mode, 0.5, 3, dtypes.Float32, false, nil, false, 0}, {mode, 0, 1, dtypes.BFloat16, false, nil, false, 0},
					{mode, 0, 1, dtypes.Float32, true, nil, false, 0}, {mode, 0.5, 2, dtypes.Float32, true, nil, false, 0}} {
					if d.shard && mode != "tape" {
						continue // refused
					}
					t.Run(fmt.Sprintf("%s %d %+v", name, n, d), func(t *testing.T) {
						tolerance := 2e-6
						if d.reduce == dtypes.BFloat16 {
							tolerance = 2e-2
						}
						want, wantTold := dealOut(t, rt, d, dtypes.Float32, 1)
						states, told := acrossHosts(t, []*xla.Runtime{rt, rt}, d, dtypes.Float32, n)
						for _, process := range states {
							for device := range process {
								sameBits(t, process[device], states[0][0])
							}
						}
						if d.shard { // what other processes keep is not to be had
							for key := range want[0] {
								if _, ok := states[0][0][key]; !ok {
									delete(want[0], key)
								}
							}
						}
						for key, v := range want[0] {
							for i := range v {
								if diff := math.Abs(float64(states[0][0][key][i] - v[i])); !(diff <= tolerance) {
									t.Errorf("%s is %v, on one device %v", key, states[0][0][key], v)
									break
								}
							}
						}
						for i := range wantTold {
							if told[0][i] != told[1][i] || !(math.Abs(told[0][i]-wantTold[i]) <= 10*tolerance*(1+math.Abs(wantTold[i]))) {
								t.Errorf("losses and norms %v and %v, on one device %v", told[0], told[1], wantTold)
								break
							}
						}
					})
				}
			}
		}
	}
}

// A NaN in one process's part changes nothing in any, and is told by all.
func TestHostsNonFinite(t *testing.T) {
	rt := must[*xla.Runtime](t)(xla.Open(xla.Go, xla.Options{}))
	for _, mode := range modes {
		m := newMeeting(2)
		var wait sync.WaitGroup
		for rank := range 2 {
			wait.Go(func() {
				lead := engine.New(rt.Backend, dtypes.Float32, newEngine(mode, dtypes.Float32).Granularity)
				lead.Split = mode == "split"
				g := must[*engine.Group](t)(engine.NewGroup(lead, 1, dtypes.Float32, &engine.Job{Hosts: attendant{m, rank, new(int)}}))
				e := g.Engines()[0]
				o := must[*engine.Optimizer](t)(e.NewOptimizer(engine.Adam{Beta1: 0.9, Beta2: 0.99, EMA: 0.9}, perceptronParams(t, e)))
				before := snapshot(t, e, o)
				first := float32(0.5)
				if rank == 1 {
					first = float32(math.NaN())
				}
				r := must[*engine.Result](t)(e.Train(perceptron(), engine.Bind{"net": o.Params()}, "net", o, engine.Step{LR: 0.1}, batch(t, e, first)...))
				if norm2 := must[float64](t)(r.Norm2()); norm2-norm2 == 0 {
					t.Errorf("%s, process %d: norm² is %g", mode, rank, norm2)
				}
				if loss := must[[]float32](t)(e.Floats(r.Outputs[0]))[0]; loss == loss {
					t.Errorf("%s, process %d: the loss is %g", mode, rank, loss)
				}
				sameBits(t, snapshot(t, e, o), before)
			})
		}
		wait.Wait()
	}
}
