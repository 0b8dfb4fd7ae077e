package engine

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Group are the devices of a process that train together. Each has an engine of its own and goes, in a goroutine of its
// own, through the same calls on its part of the batch; Train and Continue then update every device's parameters from the
// mean gradient, and return the means of the outputs and that gradient's norm.
//
// A gradient is reduced once per update, after micro-batches were added up: where blocks are walked, block by block as the
// walk back is done with each. One program adds up all gradients of a block, so that small ones share a transfer. It is
// queued for all devices at once when the last of them asks for it; the host threads run ahead of their devices, and do not
// wait for these. Since every device asks in the same order, every queue has the same order.
type Group struct {
	Reduce dtypes.DType // in which gradients are added up over the devices: Float32 or BFloat16

	engines []*Engine

	mu     sync.Mutex
	round  *round // the collective that some devices wait for
	failed error
}

// round is one collective on its way.
type round struct {
	key     string
	in, out [][]*Array // by device
	here    int        // devices that have come
	err     error
	done    chan struct{}
}

// NewGroup makes the group of n devices of the engine's backend. The engine, on device 0, leads; those on the others get its
// settings and share its programs.
func NewGroup(lead *Engine, n int, reduce dtypes.DType) (*Group, error) {
	if have := int(lead.Backend.NumDevices()); n < 1 || n > have {
		return nil, fmt.Errorf("a group of %d devices: this process drives %d", n, have)
	}
	g := &Group{Reduce: reduce, engines: []*Engine{lead}}
	for i := 1; i < n; i++ {
		g.engines = append(g.engines, &Engine{Backend: lead.Backend, Compute: lead.Compute, Granularity: lead.Granularity, Split: lead.Split,
			Frozen: lead.Frozen, Calls: lead.Calls, Offload: lead.Offload, Sites: lead.Sites, Flash: lead.Flash,
			device: onXLA{lead.Backend, compute.DeviceNum(i)}, store: lead.store})
	}
	if n > 1 {
		for i, e := range g.engines {
			e.group, e.rank = g, i
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
func (g *Group) Together(f func(rank int, e *Engine) error) error {
	errs := make([]error, len(g.engines))
	var wait sync.WaitGroup
	for i, e := range g.engines {
		wait.Go(func() {
			if errs[i] = f(i, e); errs[i] != nil {
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

// meet hands in arrays for a collective, the same on every device, which is queued when the last device has come.
func (g *Group) meet(rank int, key string, in []*Array, queue func(all [][]*Array) ([][]*Array, error)) ([]*Array, error) {
	g.mu.Lock()
	if g.failed != nil {
		defer g.mu.Unlock()
		return nil, g.failed
	}
	r := g.round
	if r == nil {
		r = &round{key: key, in: make([][]*Array, len(g.engines)), done: make(chan struct{})}
		g.round = r
	}
	r.in[rank] = in
	r.here++
	switch {
	case r.key != key:
		r.err = fmt.Errorf("device %d asks for %q while others ask for %q", rank, key, r.key)
	case r.here == len(g.engines):
		r.out, r.err = queue(r.in)
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
	return r.out[rank], nil
}

// replicas is the number of devices whose gradients are added up.
func (e *Engine) replicas() int {
	if e.group == nil {
		return 1
	}
	return len(e.group.engines)
}

// share is the part of an update that a sum of gradients, over its micro-batches and the devices, must be scaled to.
func (e *Engine) share(step Step) float64 { return 1 / float64(max(step.Of, 1)*e.replicas()) }

// sum adds gradients up over the devices of the group, which it takes. Alone it passes them on.
func (e *Engine) sum(arrays []*Array) ([]*Array, error) {
	if e.group == nil || len(arrays) == 0 {
		return arrays, nil
	}
	return e.collective("sum", e.group.Reduce, arrays)
}

// mean is sum for results, in f32, over the number of devices.
func (e *Engine) mean(arrays []*Array) ([]*Array, error) {
	if e.group == nil || len(arrays) == 0 {
		return arrays, nil
	}
	return e.collective("mean", dtypes.Float32, arrays)
}

func (e *Engine) collective(what string, in dtypes.DType, arrays []*Array) ([]*Array, error) {
	p, err := e.reduction(what, in, shapesOf(arrays))
	if err != nil {
		return nil, err
	}
	return e.group.meet(e.rank, p.key, arrays, func(all [][]*Array) ([][]*Array, error) { return e.group.queue(p, all) })
}

// reduction is the program that adds arrays up over the devices, in a dtype.
func (e *Engine) reduction(what string, in dtypes.DType, of []shapes.Shape) (*program, error) {
	n := e.replicas()
	return e.declareFor(n, fmt.Sprintf("%s|%d|%s|%v", what, n, in, of), func(g *graph.Graph, p *program) []*graph.Node {
		p.aliases = map[int]int{}
		operands := nodes(inputNodes(g, of))
		for i := range operands {
			p.aliases[i] = i
			operands[i] = graph.ConvertDType(operands[i], in)
		}
		out := g.Distributed().AllReduce(operands, compute.ReduceOpSum)
		for i := range out {
			out[i] = graph.ConvertDType(out[i], of[i].DType)
			if what == "mean" {
				out[i] = graph.MulScalar(out[i], 1/float64(n))
			}
		}
		return out
	})
}

// queue runs a program of all devices on the inputs of each, which it takes.
func (g *Group) queue(p *program, all [][]*Array) ([][]*Array, error) {
	lead := g.engines[0]
	lead.compile(p, lead.device)
	if p.err != nil {
		return nil, p.err
	}
	var buffers []compute.Buffer
	var donate []bool
	for i := range all {
		b, err := buffersOf(all[i])
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", i, err)
		}
		buffers = append(buffers, b...)
		donate = append(donate, slices.Repeat([]bool{true}, len(b))...)
	}
	results, err := lead.device.run(p, buffers, donate)
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", p.name, err)
	}
	out := make([][]*Array, len(all))
	for i, e := range g.engines {
		e.runs.Add(1)
		n := len(p.outputs)
		out[i] = e.came(p, all[i], donate[:len(all[i])], results[i*n:(i+1)*n])
	}
	return out, nil
}

// spread makes a graph one of a program that n devices run together.
func spread(g *graph.Graph, n int) error {
	mesh, err := distributed.NewDeviceMesh([]int{n}, []string{"device"})
	if err != nil {
		return err
	}
	return g.SetSPMD(mesh)
}
