package rundir

import (
	"fmt"
	"io/fs"
	"path/filepath"
)

// resultFolder is where a phase's final weights lie.
func (d *Dir) resultFolder(stage, phase string) string {
	return filepath.Join(d.PhasePath(stage, phase), "result")
}

// SaveResult saves the final files of a phase; they are kept for ever. A sound
// result that is there already is an error; a damaged one is replaced.
func (d *Dir) SaveResult(p Point, meta any, files ...File) (err error) {
	defer d.explain(&err)
	if d.lock == nil {
		return ErrReadOnly
	}
	if err := checkNames(p.Stage, p.Phase); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); err != nil {
		return err
	}
	folder := d.resultFolder(p.Stage, p.Phase)
	old, err := readManifest(folder)
	if err == nil {
		err = d.hashes.verify(folder, old)
	}
	if err == nil {
		return fmt.Errorf("%s holds a complete result already; it is never overwritten", folder)
	}
	if !unsound(err) {
		return err
	}
	m := &manifest{Point: &p}
	if m.Stats, m.StatsSHA256, err = d.syncStats(); err != nil {
		return err
	}
	if err := d.save(folder, m, meta, files, nil); err != nil {
		return fmt.Errorf("save result: %w", err)
	}
	return nil
}

// Result is the verified result of a phase. Errors: fs.ErrNotExist where the
// phase has none or its saving was interrupted, *Damaged where files changed;
// any other is of reading.
func (d *Dir) Result(stage, phase string) (*Snapshot, error) {
	if err := checkNames(stage, phase); err != nil {
		return nil, err
	}
	folder := d.resultFolder(stage, phase)
	m, err := readManifest(folder)
	if err != nil {
		if skip(folder, err).Unfinished {
			return nil, fmt.Errorf("no result of stage %s, phase %s: %w", stage, phase, fs.ErrNotExist)
		}
		return nil, err
	}
	if m.Point == nil {
		return nil, &Damaged{Path: folder, Why: manifestName + " has no point"}
	}
	if err := d.hashes.verify(folder, m); err != nil {
		return nil, err
	}
	return &Snapshot{Point: *m.Point, Folder: folder, manifest: m}, nil
}
