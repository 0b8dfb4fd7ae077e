package rundir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"fewstep/cluster"
)

// Ranks are the processes that save one checkpoint together; *cluster.Member is one of them.
type Ranks interface {
	Rank() int       // of this process; 0 owns the run directory
	Hosts() []string // by rank

	// Gather gives every rank the values of all, by rank, once all have called it.
	Gather(ctx context.Context, name string, value []byte) ([][]byte, error)
}

// visibleWithin is how long rank 0 looks for a file that another rank has written: network file systems remember for a
// while that a name was not there.
var visibleWithin = 30 * time.Second

// shard is what a rank tells the others of its part of a checkpoint.
type shard struct {
	Folder string  `json:"folder,omitempty"` // of rank 0, before all write: relative to the run directory; "" = nothing is to be written
	Files  []entry `json:"files,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// SaveShards is SaveCheckpoint by several processes, each of which calls it with files of its own, at the same time and with
// the same point. They write side by side into one folder, on a file system that all share; each takes the digests of its
// files. Rank 0 makes the folder and writes the manifest, which lists the files of all, when all are done. Only rank 0 has
// opened the run directory by Open, the others by View.
//
// All ranks return nil or all return an error: a *cluster.Failure of the rank that it came from. After an error the checkpoints from
// before are all still there, and this one is not.
func (d *Dir) SaveShards(ctx context.Context, ranks Ranks, p Point, meta any, files ...File) error {
	s := sharing{ctx, ranks, fmt.Sprintf("checkpoint %d", p.Position)}
	if ranks.Rank() == 0 {
		return s.lead(d, p, meta, files)
	}
	begin, err := s.tell("begin", shard{})
	if err != nil {
		return err
	}
	if folder := begin[0].Folder; folder != "" {
		folder = d.Path(filepath.FromSlash(folder))
		var mine shard
		err := checkFiles(folder, files)
		if err == nil {
			mine.Files, err = d.putAll(folder, files)
		}
		if err != nil {
			mine.Error = err.Error()
		}
		if _, err := s.tell("write", mine); err != nil {
			return err
		}
	}
	_, err = s.tell("end", shard{})
	return err
}

// sharing is one checkpoint on its way.
type sharing struct {
	ctx   context.Context
	ranks Ranks
	name  string
}

// tell exchanges what the ranks know; the first rank's error is every rank's.
func (s sharing) tell(step string, mine shard) ([]shard, error) {
	raw, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	all, err := s.ranks.Gather(s.ctx, s.name+", "+step, raw)
	if err != nil {
		return nil, err
	}
	out := make([]shard, len(all))
	for rank, raw := range all {
		if err := json.Unmarshal(raw, &out[rank]); err != nil {
			return nil, fmt.Errorf("%s: what rank %d tells: %w", s.name, rank, err)
		}
	}
	for rank := range out {
		if out[rank].Error != "" {
			return nil, &cluster.Failure{Rank: rank, Host: s.ranks.Hosts()[rank], Code: cluster.CodeError,
				Text: s.name + ": " + out[rank].Error + "; nothing of it is kept, and the checkpoints from before are"}
		}
	}
	return out, nil
}

// lead is rank 0's part.
func (s sharing) lead(d *Dir, p Point, meta any, files []File) error {
	begun := false
	var told error // that all ranks know
	err := d.saveCheckpoint(p, meta, files, func(folder string, put func() ([]entry, error)) ([]entry, error) {
		begun = true
		rel, err := filepath.Rel(d.root, folder)
		if err != nil {
			return nil, err
		}
		if _, told = s.tell("begin", shard{Folder: filepath.ToSlash(rel)}); told != nil {
			return nil, told
		}
		var mine shard
		if mine.Files, err = put(); err != nil {
			mine.Error = err.Error()
		}
		var all []shard
		if all, told = s.tell("write", mine); told != nil {
			return nil, told
		}
		return s.together(folder, all)
	})
	if told != nil {
		return told
	}
	var end shard
	if err != nil {
		end.Error = err.Error()
	}
	if !begun { // it failed before, or there is this checkpoint already
		if _, told = s.tell("begin", end); told != nil {
			return told
		}
	}
	_, told = s.tell("end", end)
	return told
}

// together lists the files of all ranks, which must be there.
func (s sharing) together(folder string, all []shard) (out []entry, err error) {
	owner := map[string]int{manifestName: 0}
	for rank, of := range all {
		for _, e := range of.Files {
			if first, ok := owner[e.Name]; ok {
				return nil, fmt.Errorf("ranks %d and %d both wrote %q", first, rank, e.Name)
			}
			owner[e.Name] = rank
			if err := visible(folder, e); err != nil {
				return nil, fmt.Errorf("what rank %d (%s) wrote is not what lies here: %w; a run directory must lie on a file system that all nodes share", rank, s.ranks.Hosts()[rank], err)
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// visible waits until a file is there in its size.
func visible(folder string, e entry) error {
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		_, err := e.size(folder)
		var damaged *Damaged
		if !errors.As(err, &damaged) || time.Since(start) > visibleWithin {
			return err
		}
	}
}
