package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"

	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

const victimConfig = "name: victim\n"

// victim is a training loop over three phases, with everything that a run does to its directory: records, checkpoints,
// results, artifacts. Its weights are a hash chain over every step: one step lost, redone from the wrong state or done twice
// changes all that follow. It starts, continues or finds itself done.
//
// Nothing that it meets may look like damage to it: the attacks of this package damage no file.
func victim(dir string) error {
	runtime.LockOSThread() // all system calls on files come from one thread, so that they can be counted
	d, err := rundir.Open(dir, []byte(victimConfig), rundir.Lineage{FewstepVersion: "victim", BaseWeights: "aa", DataManifest: "bb"})
	if err != nil {
		return err
	}
	defer d.Close()
	damaged := ""
	d.Told = func(sentence string) { damaged = sentence }

	phases := []rundir.Point{{Stage: "8", Phase: "lora"}, {Stage: "8", Phase: "full"}, {Stage: "4", Phase: "lora"}}
	const updates, batch, every = 5, 16, 2
	var from *rundir.Snapshot
	current := 0
	for ; current < len(phases); current++ {
		r, err := d.Result(phases[current].Stage, phases[current].Phase)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		if err := exported(d, r); err != nil {
			return err
		}
		from = r
	}
	samples := int64(0)
	if current < len(phases) {
		c, skipped, err := d.LatestCheckpoint()
		if err != nil {
			return err
		}
		for _, s := range skipped {
			if !s.Unfinished {
				return fmt.Errorf("taken for damage: %v", s)
			}
		}
		if c != nil && c.Stage == phases[current].Stage && c.Phase == phases[current].Phase {
			from, samples = c, c.Samples
		}
	}
	if err := d.Rewind(from); err != nil {
		return err
	}
	if current == len(phases) {
		return taken(damaged)
	}
	var weights []byte
	position := int64(0)
	if from != nil {
		position = from.Position
		if weights, err = os.ReadFile(from.Path("weights")); err != nil {
			return err
		}
	}
	stats, err := monitor.OpenStats(d.StatsPath(), d.TimingPath())
	if err != nil {
		return err
	}
	defer stats.Close()
	for ; current < len(phases); current++ {
		p := phases[current]
		rec := monitor.Record{Kind: monitor.KindPhase, Stage: p.Stage, Phase: p.Phase, Total: updates * batch, Position: position}
		if samples == 0 {
			if err := stats.Update(rec); err != nil {
				return err
			}
		}
		for samples < updates*batch {
			samples += batch
			position += batch
			sum := sha256.Sum256(fmt.Appendf(weights, "%s %s %d", p.Stage, p.Phase, samples))
			weights = sum[:]
			rec.Kind, rec.Samples, rec.Position, rec.Took = monitor.KindStep, samples, position, time.Millisecond
			rec.Values = monitor.Values{monitor.Loss: float64(sum[0])}
			if err := stats.Update(rec); err != nil {
				return err
			}
			p.Samples, p.Position = samples, position
			if samples/batch%every == 0 {
				if err := d.SaveCheckpoint(p, nil, filesOf(weights)...); err != nil {
					return err
				}
			}
		}
		if err := d.SaveResult(p, nil, filesOf(weights)...); err != nil {
			return err
		}
		r, err := d.Result(p.Stage, p.Phase)
		if err != nil {
			return err
		}
		if err := exported(d, r); err != nil {
			return err
		}
		samples = 0
	}
	return taken(damaged)
}

func taken(damaged string) error {
	if damaged != "" {
		return fmt.Errorf("taken for damage: %s", damaged)
	}
	return nil
}

// filesOf are a snapshot's files, written in both ways that there are.
func filesOf(weights []byte) []rundir.File {
	large := make([]byte, 100<<10)
	for i := range large {
		large[i] = weights[i%len(weights)]
	}
	return []rundir.File{rundir.Bytes("weights", weights), {Name: "state", WritePath: func(path string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = f.Write(large)
		return errors.Join(err, f.Close())
	}}}
}

// exported copies a result's weights to an artifact, unless that is done.
func exported(d *rundir.Dir, r *rundir.Snapshot) error {
	name := r.Stage + "_" + r.Phase
	if have, err := d.HasArtifact(rundir.Exports, name); err != nil || have {
		return err
	}
	return d.SaveArtifact(rundir.Exports, rundir.File{Name: name, Write: func(w io.Writer) error {
		f, err := os.Open(r.Path("weights"))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}})
}
