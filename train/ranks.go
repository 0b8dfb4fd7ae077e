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
	"fewstep/configs"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/train/rundir"
)

// ranks are the processes that train together, as one of them knows them, each with its devices. Every rank walks the same
// ladder and takes its part of every batch. Rank 0 alone changes the run directory, but for the parts of checkpoints; what it
// finds there, and decides by it, it tells the others, which open the directory to read. A run that is alone is rank 0 of 1.
type ranks struct {
	member *cluster.Member // nil = this process is alone
	each   int             // devices of each process
}

func (r *ranks) nodes() int {
	if r.member == nil {
		return 1
	}
	return r.member.Nodes()
}

func (r *ranks) process() int {
	if r.member == nil {
		return 0
	}
	return r.member.Rank()
}

// devices is the number of devices that train together, over all processes.
func (r *ranks) devices() int { return r.each * r.nodes() }

// leads says whether this process changes the run directory and tells of the run.
func (r *ranks) leads() bool { return r.process() == 0 }

// hear gives every rank rank 0's value, which is a pointer; it waits for all. name says what a rank that is late is awaited for.
func (r *ranks) hear(name string, value any) error {
	m := r.member
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

// Working tells the other ranks what this one is doing while they wait for it. Long work calls it again and again; "" ends it.
func (r *ranks) Working(doing string) {
	if m := r.member; m != nil {
		m.Working(doing)
	}
}

// visibleWithin is how long a rank looks for what rank 0 has written: network file systems remember for a while that a name
// was not there.
const visibleWithin = 30 * time.Second

// visible opens what rank 0 has written.
func (r *ranks) visible(open func() error) error {
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := open()
		var foreign *rundir.NotRunDir
		if r.leads() || !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &foreign) || time.Since(start) > visibleWithin {
			return err
		}
	}
}

// sameInputs ends all ranks where they do not read the same model and data.
func (r *ranks) sameInputs(c *configs.Recipe, l rundir.Lineage) error {
	m := r.member
	if m == nil {
		return nil
	}
	all, err := json.Marshal([]any{l.BaseWeights, l.Extra, l.Inputs})
	if err != nil {
		return err
	}
	model := sha256.Sum256(all)
	return m.Same(m.Context(), cluster.Fact{Name: "the model's files", Value: hex.EncodeToString(model[:8])}, cluster.Fact{Name: "the data set", Value: l.DataManifest[:min(16, len(l.DataManifest))]},
		cluster.Fact{Name: "the recipe with all defaults", Value: c.Hash()[:16]})
}

// job is how the devices reach those of the other ranks; span are those that XLA reaches.
func (r *ranks) job(span *xla.Span) *engine.Job {
	if r.member == nil {
		return nil
	}
	return &engine.Job{Span: span, Hosts: r.member}
}

// stops makes all ranks stop before the same update once ctx has ended.
func (r *ranks) stops(ctx context.Context) (undo func() bool) {
	m := r.member
	return context.AfterFunc(ctx, func() { _ = m.Propose(m.Context(), cluster.Stop, "it was asked to stop") })
}
