package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	"fewstep/cluster"
	"fewstep/engine"
	"fewstep/train/rundir"
)

// Several processes train together, each with its devices. Every rank walks the same ladder and takes its part of every
// batch. Rank 0 alone changes the run directory, but for the parts of checkpoints; what it finds there, and decides by it,
// it tells the others, which open the directory to read. A run that is alone is rank 0 of 1.

func (r *Run) nodes() int {
	if r.opt.Cluster == nil {
		return 1
	}
	return r.opt.Cluster.Nodes()
}

func (r *Run) process() int {
	if r.opt.Cluster == nil {
		return 0
	}
	return r.opt.Cluster.Rank()
}

// leads says whether this process changes the run directory and tells of the run.
func (r *Run) leads() bool { return r.process() == 0 }

// hear gives every rank rank 0's value, which is a pointer; it waits for all. name says what a rank that is late is awaited for.
func (r *Run) hear(name string, value any) error {
	m := r.opt.Cluster
	if m == nil {
		return nil
	}
	var raw []byte
	if r.leads() {
		var err error
		if raw, err = json.Marshal(value); err != nil {
			return err
		}
	}
	all, err := m.Gather(m.Context(), name, raw)
	if err != nil || r.leads() || value == nil {
		return err
	}
	return json.Unmarshal(all[0], value)
}

// Working tells the other ranks what this one does while they wait for it, again and again; "" = nothing that takes long.
func (r *Run) Working(doing string) {
	if m := r.opt.Cluster; m != nil {
		m.Working(doing)
	}
}

// visibleWithin is how long a rank looks for what rank 0 has written: network file systems remember for a while that a name
// was not there.
const visibleWithin = 30 * time.Second

// visible opens what rank 0 has written.
func (r *Run) visible(open func() error) error {
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := open()
		var foreign *rundir.NotRunDir
		if r.leads() || !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &foreign) || time.Since(start) > visibleWithin {
			return err
		}
	}
}

// sameInputs ends all ranks where they do not read the same model and data.
func (r *Run) sameInputs(l rundir.Lineage) error {
	m := r.opt.Cluster
	if m == nil {
		return nil
	}
	all, err := json.Marshal([]any{l.BaseWeights, l.Extra, l.Inputs})
	if err != nil {
		return err
	}
	model := sha256.Sum256(all)
	return m.Same(m.Context(), cluster.Fact{Name: "the model's files", Value: hex.EncodeToString(model[:8])}, cluster.Fact{Name: "the data set", Value: l.DataManifest[:min(16, len(l.DataManifest))]},
		cluster.Fact{Name: "the recipe with all defaults", Value: r.Config.Hash()[:16]})
}

// job is how the run's devices reach those of the other ranks.
func (r *Run) job() *engine.Job {
	if r.opt.Cluster == nil {
		return nil
	}
	return &engine.Job{Span: r.opt.Span, Hosts: r.opt.Cluster}
}

// agreed is what all ranks do before their next update: it saves where they have agreed to, and says whether they stop.
func (p *phase) agreed() (stop bool, err error) {
	m := p.opt.Cluster
	if m == nil {
		return false, nil
	}
	if p.leads() && p.overdue() && !p.asked {
		p.asked = true
		if err := m.Propose(m.Context(), cluster.Save, "train.checkpoint_minutes"); err != nil {
			return false, err
		}
	}
	for {
		action, err := m.Next(m.Context())
		if err != nil || action == cluster.None {
			return false, err
		}
		if p.since > 0 {
			if err := p.checkpoint(); err != nil {
				return false, err
			}
		}
		p.asked = false
		if action == cluster.Stop {
			return true, nil
		}
	}
}

// stops makes all ranks stop before the same update once ctx has ended.
func (r *Run) stops(ctx context.Context) (undo func() bool) {
	m := r.opt.Cluster
	if m == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() { _ = m.Propose(m.Context(), cluster.Stop, "it was asked to stop") })
}
