package train

import (
	"time"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/train/cost"
	"fewstep/train/monitor"
)

// wall collects the wall-clock figures of an update. They tell of the machine, and change nothing in a run.
type wall struct {
	values monitor.Values
	parts  bool // this update's parts are measured
	last   time.Time
}

// operations are those of each phase, per sample, by "stage/phase".
func (s *Setup) operations() (map[string]float64, error) {
	m := cost.Of(s.Pipeline)
	rt, err := xla.Open(xla.Go, xla.Options{}) // builds graphs only
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	return cost.ModelFLOPs(rt.Backend, s.Config, m)
}

func (p *phase) newWall() (*wall, error) {
	parts := p.updates == 0 || p.updates%monitor.WallEvery == 0 && time.Since(p.measured) >= monitor.WallPause
	if parts {
		if err := p.settle(0); err != nil { // what is still queued is not this update's
			return nil, err
		}
		p.measured = time.Now()
	}
	p.s.Engine.TimeUpdates(parts)
	return &wall{values: monitor.Values{}, parts: parts, last: time.Now()}, nil
}

// rest ends an update's last part, the student's, which waits for the update's numbers.
func (w *wall) rest(e *engine.Engine, n *numbers) error {
	if !w.parts {
		return nil
	}
	if err := n.read(e); err != nil {
		return err
	}
	return w.part(e, monitor.StudentSeconds, nil)
}

// part ends a part of the step, whose updates are a part of their own where they are seen. What is still queued on the
// device belongs to it: with wait, an array of its result, it waits for that.
func (w *wall) part(e *engine.Engine, name string, wait *engine.Array) error {
	if !w.parts {
		return nil
	}
	if wait != nil {
		if _, err := e.Floats(wait); err != nil {
			return err
		}
	}
	now := time.Now()
	updates := e.UpdateTime()
	if updates > 0 {
		w.values[monitor.UpdateSeconds] += updates.Seconds()
	}
	w.values[name] += (now.Sub(w.last) - updates).Seconds()
	w.last = now
	return nil
}

// recent are the updates of the last second, or the last one where that took longer. Of one alone the time says little: where
// several are ready when they are read, the first seems to have taken all of it and the others none.
type recent []trained

type trained struct {
	samples int64
	took    time.Duration
}

// add takes an update in, and gives the samples per second since the oldest that is kept; 0 = no time went by.
func (r *recent) add(samples int64, took time.Duration) float64 {
	*r = append(*r, trained{samples, took})
	var all trained
	for _, u := range *r {
		all.samples, all.took = all.samples+u.samples, all.took+u.took
	}
	for len(*r) > 1 && all.took-(*r)[0].took >= time.Second {
		all.samples, all.took = all.samples-(*r)[0].samples, all.took-(*r)[0].took
		*r = (*r)[1:]
	}
	if all.took <= 0 {
		return 0
	}
	return float64(all.samples) / all.took.Seconds()
}

// finishWall adds speed and memory.
func (p *phase) finishWall(w *wall, samples int64, took time.Duration) monitor.Values {
	if rate := p.recent.add(samples, took); p.perSample > 0 && rate > 0 {
		speed := p.perSample * rate / 1e12
		w.values[monitor.TFLOPs] = speed
		if p.card != nil {
			if peak := p.card.PeakTFLOPs(); peak > 0 {
				w.values[monitor.MFU] = speed / peak / float64(p.devices())
			}
		}
	}
	if p.account != nil {
		if g := p.account.Goodput(); g.Updates > 0 {
			w.values[monitor.GoodputNow], w.values[monitor.Returns] = g.Share(), float64(g.Returns)
		}
	}
	live, peak := p.s.Engine.Memory().Live, p.s.Engine.Memory().Peak
	if p.card != nil {
		if m, err := p.card.DeviceMemory(0); err == nil {
			live, peak = m.InUse, m.Peak
		}
	}
	w.values[monitor.MemoryLive], w.values[monitor.MemoryPeak] = float64(live), float64(peak)
	return w.values
}
