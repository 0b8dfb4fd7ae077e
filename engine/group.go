package engine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"fewstep/internal/xla"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Group are the devices of a process that train together. Each has an engine of its own and goes, in a goroutine of its
// own, through the same calls on its part of the batch; Train and Continue then update every device's parameters from the
// mean gradient, and return the means of the outputs and that gradient's norm.
//
// An update adds up its gradients over the devices once, after its micro-batches: where blocks are walked, each block's as soon
// as the walk back has passed it. One program adds up all gradients of a block, so that small ones share a transfer; with Overlap
// it is the program that walks back through the next block (see overlap.go). The group queues the program for all devices when
// the last of them has asked for it. The host's threads run ahead of their devices and do not wait for them. Every device asks in
// the same order, so every queue has the same order.
type Group struct {
	Reduce  dtypes.DType // in which gradients are added up over the devices: Float32 or BFloat16
	Bucket  int64        // with Overlap, how many bytes of gradients are added up at once, at least; 0 = each block's alone
	Overlap bool         // gradients are added up while the devices compute; NewGroup sets it on GPUs, where no other process takes part

	engines []*Engine
	span    *xla.Span // the devices of all processes; nil = there is no other process, or it is reached through hosts
	hosts   Hosts     // all processes, where they add up through their hosts' memory; else nil
	of      int       // devices of all processes

	mu     sync.Mutex
	round  *round // the collective that some devices wait for
	failed error
	number int // of launches over all processes
	waited time.Duration
}

// round is one collective on its way.
type round struct {
	key     string
	in, out []any // by device
	here    int   // devices that have come
	err     error
	done    chan struct{}
}

// NewGroup makes the group of n devices of the engine's backend. The engine, on device 0, leads; those on the others get its
// settings and share its programs. With a job, which may be nil, the devices of all its processes train together, each
// process's n: its group then must go through the same calls as the others'.
func NewGroup(lead *Engine, n int, reduce dtypes.DType, job *Job) (*Group, error) {
	engines, err := lead.On(n)
	if err != nil {
		return nil, err
	}
	g := &Group{Reduce: reduce, engines: engines, of: n}
	first, err := g.joinJob(job, int(lead.Backend.NumDevices()))
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(lead.Backend.Description(), " ")
	g.Overlap = g.span == nil && path.Base(name) == "cuda" // a CPU's threads would wait for each other within programs
	if g.of > 1 {
		for i, e := range g.engines {
			e.group, e.slot, e.rank = g, i, first+i
		}
	}
	return g, nil
}

// Engines are those of the devices; the first leads.
func (g *Group) Engines() []*Engine { return g.engines }

// Fail makes every device that waits for the others, or will, return an error: the device that calls it comes no more.
func (g *Group) Fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != nil {
		return
	}
	g.failed = fmt.Errorf("%w: %w", ErrGroup, err)
	if g.round != nil {
		g.round.err = g.failed
		close(g.round.done)
		g.round = nil
	}
}

// ErrGroup is wrapped by the errors of devices that others of their group left alone.
var ErrGroup = errors.New("another device failed")

// Together runs f for every device at once and returns the first failure; the others end where they wait for it.
func (g *Group) Together(f func(rank int) error) error {
	errs := make([]error, len(g.engines))
	var wait sync.WaitGroup
	for i := range g.engines {
		wait.Go(func() {
			if errs[i] = f(i); errs[i] != nil {
				g.Fail(fmt.Errorf("device %d: %w", i, errs[i]))
			}
		})
	}
	wait.Wait()
	slices.SortStableFunc(errs, func(a, b error) int { // what failed first comes first
		return order(errors.Is(a, ErrGroup)) - order(errors.Is(b, ErrGroup))
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func order(last bool) int {
	if last {
		return 1
	}
	return 0
}

// meet hands in something for what all devices do together, by the same key on each; the last that comes does it.
func (g *Group) meet(slot int, key string, in any, do func(all []any) ([]any, error)) (any, error) {
	g.mu.Lock()
	if g.failed != nil {
		defer g.mu.Unlock()
		return nil, g.failed
	}
	r := g.round
	if r == nil {
		r = &round{key: key, in: make([]any, len(g.engines)), done: make(chan struct{})}
		g.round = r
	}
	r.in[slot] = in
	r.here++
	switch {
	case r.key != key:
		r.err = fmt.Errorf("device %d asks for %q while others ask for %q", slot, key, r.key)
	case r.here == len(g.engines):
		r.out, r.err = do(r.in)
	}
	if r.err != nil {
		g.failed = r.err
	}
	if r.err != nil || r.here == len(g.engines) {
		g.round = nil
		close(r.done)
	}
	g.mu.Unlock()
	<-r.done
	if r.err != nil {
		return nil, r.err
	}
	return r.out[slot], nil
}

// replicas is the number of devices whose gradients are added up.
func (e *Engine) replicas() int {
	if e.group == nil {
		return 1
	}
	return e.group.of
}

// share is the part of an update that a sum of gradients, over its micro-batches and the devices, must be scaled to.
func (e *Engine) share(step Step) float64 { return 1 / float64(max(step.Of, 1)*e.replicas()) }

// join runs a program of all devices, on inputs some of which it takes.
func (e *Engine) join(p *program, in []*Array, donate []bool) ([]*Array, error) {
	if e.ahead != nil {
		return e.execute(p, in, donate)
	}
	out, err := e.group.meet(e.slot, p.key, in, func(all []any) ([]any, error) { return e.group.queue(p, all, donate) })
	if err != nil {
		return nil, err
	}
	return out.([]*Array), nil
}

// queue runs a program of all devices on the inputs of each, some of which it takes.
func (g *Group) queue(p *program, all []any, donate []bool) ([]any, error) {
	lead := g.engines[0]
	if err := lead.ready(p); err != nil {
		return nil, err
	}
	var buffers []compute.Buffer
	for i := range all {
		b, err := buffersOf(all[i].([]*Array))
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", i, err)
		}
		buffers = append(buffers, b...)
	}
	var results []compute.Buffer
	run := func() (err error) {
		results, err = lead.device.run(p, buffers, slices.Repeat(donate, len(all)))
		return err
	}
	var err error
	if g.span == nil {
		err = run()
	} else {
		g.number = g.number%(1<<30) + 1
		err = xla.Launch(g.number, run)
	}
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", p.name, err)
	}
	out := make([]any, len(all))
	for i, e := range g.engines {
		e.runs.Add(1)
		in, n := all[i].([]*Array), len(p.outputs)
		out[i] = e.came(p, in, donate, results[i*n:(i+1)*n])
	}
	return out, nil
}

// spread makes a graph one of a program that the group's devices run together.
func (g *Group) spread(of *graph.Graph) error {
	devices := make([]compute.DeviceNum, len(g.engines))
	for i := range devices {
		devices[i] = compute.DeviceNum(i)
	}
	mesh, err := distributed.NewDeviceMesh([]int{len(devices)}, []string{"device"})
	if err == nil {
		err = of.SetSPMD(mesh)
	}
	if err == nil {
		err = of.SetDeviceAssignment(devices)
	}
	return err
}
