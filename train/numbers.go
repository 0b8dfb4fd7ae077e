package train

import (
	"fmt"
	"math"
	"time"

	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/train/monitor"
)

// The numbers of an update are read when a later one has been queued: the host would otherwise wait for the device, and the
// device then for the host. They decide nothing until they are read, but no checkpoint or result is saved before: an update
// that is not finite ends the run with the state that was saved before it.

// inFlight is the most updates that are queued and not read.
const inFlight = 2

// numbers are an update's values. Those that are on the device are read when they are wanted.
type numbers struct {
	values monitor.Values
	of     int // micro-batches
	unread []method.Result
}

// take takes the results of a session's update.
func (n *numbers) take(s *method.Session) {
	n.unread, s.Results = s.Results, nil
}

// read waits for the device. Outputs are means over micro-batches.
func (n *numbers) read(e *engine.Engine) error {
	defer n.free()
	for _, u := range n.unread {
		var all []float32
		for _, out := range u.Outputs {
			v, err := e.Floats(out)
			if err != nil {
				return err
			}
			all = append(all, v...)
		}
		for i, v := range all { // some names have no number
			n.values[u.Names[i]] += float64(v) / float64(n.of)
		}
		if !u.Updated {
			continue
		}
		norm2, err := u.Norm2()
		if err != nil {
			return err
		}
		norm := monitor.GradNorm
		if u.Role == method.Discriminator {
			norm += "_d"
		}
		n.values[norm] = math.Sqrt(norm2)
	}
	return nil
}

func (n *numbers) free() {
	for _, u := range n.unread {
		u.Free()
	}
	n.unread = nil
}

// queued is an update whose numbers are not all read.
type queued struct {
	*numbers
	record monitor.Record // of it, with these values
	first  int64          // its samples
	count  int64
	wall   *wall
	start  time.Time
}

// settle reads and reports all queued updates but the last so many.
func (p *phase) settle(but int) error {
	for len(p.queue) > but {
		u := p.queue[0]
		p.queue = p.queue[1:]
		if err := u.read(p.s.Engine); err != nil {
			return fmt.Errorf("step %d: %w", u.record.Step, err)
		}
		if m, ok := p.s.Method.(method.Teller); ok {
			m.Tell(p.s, u.values, int(u.count))
		}
		if monitor.CheckFinite(u.record, nil, nil) != nil {
			samples, keys := p.loader.keys(u.first, int(u.count))
			return monitor.CheckFinite(u.record, samples, keys)
		}
		if paired, ok := u.values[monitor.Paired]; ok {
			p.s.Gate.Observe(p.s.Phase, paired, u.count, p.Config.Discriminator.GateWindow)
		}
		now := time.Now()
		if p.read.After(u.start) {
			u.start = p.read
		}
		p.read = now
		u.record.Took = now.Sub(u.start)
		u.record.Wall = p.finishWall(u.wall, u.count, u.record.Took)
		p.exchange(u.record.Wall, u.record.Took)
		if p.watch != nil {
			if f := p.watch.Update(u.record); f != nil {
				p.log.Warn("discriminator: " + f.String())
			}
		}
		if err := p.report.Update(u.record); err != nil {
			return err
		}
	}
	return nil
}
