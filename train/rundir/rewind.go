package rundir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
)

// recorded is what this process knows of stats.jsonl: which file it is, and the digest of its bytes so far.
type recorded struct {
	info   fs.FileInfo // nil: not seen yet
	bytes  int64
	digest hash.Hash
}

func (r *recorded) sum() string {
	if r.bytes == 0 {
		return ""
	}
	return hex.EncodeToString(r.digest.Sum(nil))
}

// syncStats makes stats.jsonl durable and returns its length and digest. The
// file must be the one it was, with the bytes that it had.
func (d *Dir) syncStats() (int64, string, error) {
	f, err := os.OpenFile(d.StatsPath(), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if d.stats.info != nil {
			return 0, "", &Gone{d.StatsPath(), "was removed"}
		}
		return 0, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return 0, "", fmt.Errorf("sync %s: %w", d.StatsPath(), err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	if d.stats.info == nil {
		d.stats = recorded{digest: sha256.New()}
	} else if !os.SameFile(d.stats.info, info) {
		return 0, "", &Gone{d.StatsPath(), "was replaced by another file"}
	}
	d.stats.info = info
	if info.Size() < d.stats.bytes {
		return 0, "", &Gone{d.StatsPath(), fmt.Sprintf("was cut from %d bytes to %d", d.stats.bytes, info.Size())}
	}
	if err := endsLine(f, info.Size()); err != nil {
		return 0, "", err
	}
	n, err := io.Copy(d.stats.digest, io.NewSectionReader(f, d.stats.bytes, info.Size()-d.stats.bytes))
	d.stats.bytes += n
	if err != nil {
		d.stats.info = nil // what was read is not known
		return 0, "", fmt.Errorf("read back %s: %w", d.StatsPath(), err)
	}
	return d.stats.bytes, d.stats.sum(), nil
}

// Rewind makes the run what it was at the moment s was saved, s being a
// checkpoint or a result; nil is the very start. stats.jsonl is cut back to its
// length of then, and checkpoints of a later position are set aside, since the
// records between would be missing. Results stay. timing.jsonl is a log of what
// really happened and is not cut; event files are not touched either: the
// writer opens a new one whose first event tells TensorBoard to drop the steps
// that are being redone.
//
// Nothing is changed where stats.jsonl does not begin with the bytes that it
// had when s was saved.
//
// Call it once, between LatestCheckpoint and the first new record, with Keep
// set.
func (d *Dir) Rewind(s *Snapshot) error {
	if d.lock == nil {
		return ErrReadOnly
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rewind(s)
}

func (d *Dir) rewind(s *Snapshot) error {
	var m manifest
	position, keep := int64(0), ""
	if s != nil {
		m, position, keep = *s.manifest, s.Position, s.Folder
	}
	if err := d.compareStats(m.Stats, m.StatsSHA256); err != nil {
		return err
	}
	found, _, err := d.list()
	if err != nil {
		return err
	}
	var later []string
	for _, c := range found {
		if s == nil || c.Position > position || c.Position == position && c.manifest.Stats > m.Stats {
			later = append(later, c.Folder)
		}
	}
	if err := d.setAside("checkpoints later than the one from which the run went on", later); err != nil {
		return err
	}
	if err := d.prune(keep); err != nil { // an interrupted save may not have come to it
		return err
	}
	return d.cutStats(m.Stats)
}

// compareStats compares the first bytes of stats.jsonl with their digest, "" where it is not known.
func (d *Dir) compareStats(length int64, sum string) error {
	if length == 0 {
		return nil
	}
	f, err := os.Open(d.StatsPath())
	if err != nil {
		return fmt.Errorf("cut back: %w; restore the file, or start a new run directory", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < length {
		return fmt.Errorf("%s has %d bytes, but had %d when the checkpoint was saved: it was changed from outside; restore it, or go back to where it was whole with 'fewstep rewind'", f.Name(), info.Size(), length)
	}
	if err := endsLine(f, length); err != nil {
		return err
	}
	digest := sha256.New()
	if _, err := io.Copy(digest, io.NewSectionReader(f, 0, length)); err != nil {
		return fmt.Errorf("cut back: %w", err)
	}
	if sum != "" && hex.EncodeToString(digest.Sum(nil)) != sum {
		return fmt.Errorf("%s does not begin with the %d bytes that it had when the checkpoint was saved: it was changed from outside; restore it, or go back to where it was whole with 'fewstep rewind'", f.Name(), length)
	}
	d.stats = recorded{info: info, bytes: length, digest: digest}
	return nil
}

// cutStats cuts stats.jsonl, which compareStats has looked at.
func (d *Dir) cutStats(length int64) error {
	if err := d.before("cut " + statsName); err != nil {
		return err
	}
	f, err := os.OpenFile(d.StatsPath(), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return fmt.Errorf("cut back: %w", err)
	}
	defer f.Close()
	if length == 0 {
		d.stats = recorded{digest: sha256.New()}
		if err := syncFolder(d.root); err != nil {
			return err
		}
	}
	if d.stats.info, err = f.Stat(); err != nil {
		return err
	}
	if d.stats.info.Size() == length {
		return nil // a run that is done is left as it is
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
