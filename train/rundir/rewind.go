package rundir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// syncStats makes stats.jsonl durable and returns its length.
func (d *Dir) syncStats() (int64, error) {
	f, err := os.OpenFile(d.StatsPath(), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync %s: %w", d.StatsPath(), err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := endsLine(f, info.Size()); err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Rewind makes the run what it was at the moment s was saved, s being a
// checkpoint or a result; nil is the very start. stats.jsonl is cut back to its
// length of then, and checkpoints of a later position are deleted, since the
// records between would be missing. Results stay. timing.jsonl is a log of what
// really happened and is not cut; event files are not touched either: the
// writer opens a new one whose first event tells TensorBoard to drop the steps
// that are being redone.
//
// Call it once, between LatestCheckpoint and the first new record, with Keep
// set.
func (d *Dir) Rewind(s *Snapshot) error {
	if d.lock == nil {
		return ErrReadOnly
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	position, length, keep := int64(0), int64(0), ""
	if s != nil {
		position, length, keep = s.Position, s.manifest.Stats, s.Folder
	}
	found, _, err := d.list()
	if err != nil {
		return err
	}
	for _, c := range found {
		if s == nil || c.Position > position || c.Position == position && c.manifest.Stats > length {
			if err := d.remove(c.Folder); err != nil {
				return err
			}
		}
	}
	if err := d.prune(keep); err != nil { // an interrupted save may not have come to it
		return err
	}
	return d.cutStats(length)
}

func (d *Dir) cutStats(length int64) error {
	if err := d.before("cut " + statsName); err != nil {
		return err
	}
	path := d.StatsPath()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) && length == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cut back: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < length {
		return fmt.Errorf("%s has %d bytes, but had %d when the checkpoint was saved: it was changed from outside; restore it or start a new run directory", path, info.Size(), length)
	}
	if err := endsLine(f, length); err != nil {
		return err
	}
	if err := f.Truncate(length); err != nil {
		return fmt.Errorf("cut back: %w", err)
	}
	return f.Sync()
}

// endsLine checks that a line of f ends at length.
func endsLine(f *os.File, length int64) error {
	if length == 0 {
		return nil
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], length-1); err != nil && err != io.EOF {
		return err
	}
	if b[0] != '\n' {
		return fmt.Errorf("%s: no line ends at byte %d: it was changed from outside", f.Name(), length)
	}
	return nil
}
