package engine

import (
	"context"
	"fmt"
	"time"

	"fewstep/internal/xla"

	"github.com/gomlx/compute/dtypes"
)

// Hosts are the processes of a job that add numbers up through their hosts' memory; *cluster.Member implements it. CPUs need it,
// because their plugin has no collectives over processes; every number is copied to the host and back. GPUs add up by XLA's
// collectives, over a Span.
type Hosts interface {
	Rank() int
	Nodes() int
	// Sum adds vectors up over all processes, in place, to the same bits in each.
	Sum(ctx context.Context, v []float32) error
}

// Job is how a group's devices reach those of the other processes, which drive as many each: by XLA's collectives over Span,
// or through Hosts.
type Job struct {
	Span  *xla.Span
	Hosts Hosts
}

// joinJob makes the group one of several processes' devices. It returns the number of this process's first device.
func (g *Group) joinJob(job *Job, have int) (first int, err error) {
	n := len(g.engines)
	switch {
	case job == nil:
	case job.Span != nil && len(job.Span.IDs) > 1:
		if n != have {
			return 0, fmt.Errorf("a group of %d devices over several processes: each takes part with all that it drives, this one %d", n, have)
		}
		g.span, g.of, first = job.Span, len(job.Span.IDs), job.Span.First
	case job.Hosts != nil && job.Hosts.Nodes() > 1:
		g.hosts, g.of, first = job.Hosts, n*job.Hosts.Nodes(), n*job.Hosts.Rank()
	}
	return first, nil
}

// Waited is how long this process has waited for sums over hosts, and so for the other processes.
func (g *Group) Waited() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waited
}

// programs says whether the devices of the group add up by programs that they run together.
func (g *Group) programs() bool { return g != nil && g.hosts == nil }

// overHosts adds up what the devices of all processes hand in, each rounded to a dtype first, times scale: on every device
// the same arrays. It takes those that are handed in.
func (g *Group) overHosts(all []any, in dtypes.DType, scale float32) ([]any, error) {
	of := all[0].([]*Array)
	var total []float32
	for slot, e := range g.engines {
		at := 0
		for _, a := range all[slot].([]*Array) {
			v, err := e.Floats(a)
			if err != nil {
				return nil, fmt.Errorf("device %d: %w", slot, err)
			}
			if in == dtypes.BFloat16 {
				for i, x := range narrowed(v) {
					v[i] = x.Float32()
				}
			}
			if slot == 0 {
				total = append(total, v...)
				continue
			}
			for i := range v {
				total[at+i] += v[i]
			}
			at += len(v)
		}
	}
	start := time.Now()
	if err := g.hosts.Sum(context.Background(), total); err != nil { // ends with the job
		return nil, err
	}
	g.waited += time.Since(start)
	for i := range total {
		total[i] *= scale
	}
	out := make([]any, len(all))
	for slot, e := range g.engines {
		mine := all[slot].([]*Array)
		at, sums := 0, make([]*Array, len(of))
		for i, a := range mine {
			size := a.shape.Size()
			sum, err := e.uploadAs(a.shape.DType, total[at:at+size], a.shape.Dimensions)
			if err != nil {
				return nil, fmt.Errorf("device %d: %w", slot, err)
			}
			sums[i], at = sum, at+size
		}
		Free(mine...)
		out[slot] = sums
	}
	return out, nil
}

// addOverHosts is collective, and publish, through the hosts.
func (e *Engine) addOverHosts(what string, in dtypes.DType, arrays []*Array) ([]*Array, error) {
	scale := float32(1)
	if what == "mean" {
		scale = 1 / float32(e.replicas())
	}
	out, err := e.group.meet(e.slot, fmt.Sprintf("%s|%s|%v", what, in, shapesOf(arrays)), arrays, func(all []any) ([]any, error) {
		return e.group.overHosts(all, in, scale)
	})
	if err != nil {
		return nil, err
	}
	return out.([]*Array), nil
}
