package rundir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"fewstep/internal/atomicfile"
)

// Phase names a phase of a run.
type Phase struct{ Stage, Name string }

func (p Phase) String() string { return p.Stage + "/" + p.Name }

const (
	asideFolder = "aside"
	noteName    = "aside.json"
)

// note is what aside/NUMBER/aside.json says of the files beside it, which lie under the paths that they had.
type note struct {
	Why string `json:"why"`
	// Of the phases after one without a result: they come back where its new result is the one that they were made from.
	Hole   *Phase  `json:"hole,omitempty"`
	Later  []Phase `json:"later,omitempty"`
	Config string  `json:"config_sha256,omitempty"`
}

// asides lists the numbered folders of aside/ that have a note.
func (d *Dir) asides() (folders []string, notes []note, err error) {
	all, err := subfolders(d.Path(asideFolder))
	if err != nil {
		return nil, nil, err
	}
	for _, folder := range all {
		var n note
		err := readJSON(filepath.Join(folder, noteName), &n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		folders, notes = append(folders, folder), append(notes, n)
	}
	return folders, notes, nil
}

// newAside makes the next folder of aside/ with its note, and with a copy of stats.jsonl where one is asked for. What a
// killed process left without a note holds no more than such a copy, and goes.
func (d *Dir) newAside(n note, stats bool) (string, error) {
	all, err := subfolders(d.Path(asideFolder))
	if err != nil {
		return "", err
	}
	number := 0
	for _, folder := range all {
		i, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, noteName)); errors.Is(err, fs.ErrNotExist) {
			if err := os.RemoveAll(folder); err != nil {
				return "", err
			}
			continue
		}
		number = max(number, i)
	}
	if err := d.before("set aside"); err != nil {
		return "", err
	}
	folder := d.Path(asideFolder, fmt.Sprintf("%03d", number+1))
	if err := atomicfile.MakeDir(folder); err != nil {
		return "", err
	}
	if stats {
		err := atomicfile.Write(filepath.Join(folder, statsName), func(w io.Writer) error {
			f, err := os.Open(d.StatsPath())
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return folder, writeJSON(filepath.Join(folder, noteName), n)
}

// setAside moves snapshots out of the run's way.
func (d *Dir) setAside(why string, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	folder, err := d.newAside(note{Why: why}, false)
	if err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	for _, path := range paths {
		if err := d.move(path, filepath.Join(folder, filepath.FromSlash(d.rel(path)))); err != nil {
			return fmt.Errorf("set aside: %w", err)
		}
		d.tell(fmt.Sprintf("%s was moved to %s (%s)", d.rel(path), d.rel(folder), why))
	}
	return nil
}

// move renames a folder, durably. One that is not there is moved already.
func (d *Dir) move(from, to string) error {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := d.before("move " + from); err != nil {
		return err
	}
	if err := atomicfile.MakeDir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(syncFolder(filepath.Dir(to)), syncFolder(filepath.Dir(from)))
}

// Begun says what a phase has in the run directory, without looking into the files: a finished result, and a checkpoint.
func (d *Dir) Begun(p Phase) (result, checkpoint bool, err error) {
	_, err = os.Stat(filepath.Join(d.resultFolder(p.Stage, p.Name), manifestName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, err
	}
	result = err == nil
	folders, err := subfolders(filepath.Join(d.PhasePath(p.Stage, p.Name), "checkpoints"))
	return result, len(folders) > 0, err
}

// TakeOut moves the phases that follow one whose result is missing out of the way, the last of them first, so that a kill
// leaves a hole that the next start finds again. A copy of stats.jsonl goes with them. PutBack reverses it.
func (d *Dir) TakeOut(hole Phase, later []Phase) (folder string, err error) {
	if d.lock == nil {
		return "", ErrReadOnly
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); err != nil {
		return "", err
	}
	folders, notes, err := d.asides()
	if err != nil {
		return "", err
	}
	for i, n := range notes { // by a start that was killed
		if n.Hole != nil && *n.Hole == hole && slices.Equal(n.Later, later) && n.Config == d.lineage.ConfigSHA256 {
			folder = folders[i]
		}
	}
	if folder == "" {
		why := fmt.Sprintf("the result of %s, from which these phases were made, is missing", hole)
		if folder, err = d.newAside(note{why, &hole, later, d.lineage.ConfigSHA256}, true); err != nil {
			return "", fmt.Errorf("set aside: %w", err)
		}
	}
	return folder, d.movePhases(folder, later)
}

func (d *Dir) movePhases(folder string, later []Phase) error {
	for _, p := range slices.Backward(later) {
		if err := d.move(d.PhasePath(p.Stage, p.Name), filepath.Join(folder, "stages", p.Stage, p.Name)); err != nil {
			return fmt.Errorf("set aside: %w", err)
		}
	}
	return nil
}

// PutBack moves the phases that TakeOut has moved back, once the phase without a result has one again: where its records in
// stats.jsonl are the same bytes as before, so are its weights, and what was made from them stands. Else those phases stay
// where they are, exports, sheets and report go to them, and different names the folder.
//
// It may be called at any time; a run calls it at its start and after each phase.
func (d *Dir) PutBack(result *Snapshot) (put int, different string, err error) {
	if d.lock == nil || d.readOnly != nil {
		return 0, "", nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	folders, notes, err := d.asides()
	if err != nil {
		return 0, "", err
	}
	for i, n := range notes {
		folder := folders[i]
		if n.Hole == nil || *n.Hole != (Phase{result.Stage, result.Phase}) {
			continue
		}
		if err := d.inPlace(); err != nil {
			return put, different, err
		}
		if err := d.compareStats(result.manifest.Stats, result.manifest.StatsSHA256); err != nil {
			return put, different, err
		}
		old := filepath.Join(folder, statsName)
		sum, err := prefixSum(old, result.manifest.Stats)
		if err != nil {
			return put, different, err
		}
		if sum != d.stats.sum() || n.Config != d.lineage.ConfigSHA256 {
			if different, err = folder, d.keepApart(folder, n); err != nil {
				return put, different, err
			}
			continue
		}
		if err := d.appendStats(old, result.manifest.Stats); err != nil {
			return put, different, err
		}
		for _, p := range n.Later {
			if err := d.move(filepath.Join(folder, "stages", p.Stage, p.Name), d.PhasePath(p.Stage, p.Name)); err != nil {
				return put, different, fmt.Errorf("put back: %w", err)
			}
			put++
		}
		if err := os.Remove(filepath.Join(folder, noteName)); err != nil {
			return put, different, err
		}
		if err := os.RemoveAll(folder); err != nil {
			return put, different, err
		}
		os.Remove(d.Path(asideFolder)) // where it is empty
	}
	return put, different, nil
}

// prefixSum is the digest of the first n bytes of a file, "" where it is shorter.
func prefixSum(path string, n int64) (string, error) {
	if n == 0 {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest := sha256.New()
	if got, err := io.Copy(digest, io.LimitReader(f, n)); err != nil || got < n {
		return "", err
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// appendStats cuts stats.jsonl to the bytes that it shares with the file old, and appends what that one has more. The file
// stays the same one, for those who have it open.
func (d *Dir) appendStats(old string, shared int64) error {
	if err := d.cutStats(shared); err != nil {
		return err
	}
	from, err := os.Open(old)
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := from.Seek(shared, io.SeekStart); err != nil {
		return err
	}
	to, err := os.OpenFile(d.StatsPath(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.Sync()
}

// keepApart leaves phases aside for good, and what was exported, drawn and measured of them with them.
func (d *Dir) keepApart(folder string, n note) error {
	if err := d.moveArtifacts(folder); err != nil {
		return err
	}
	n.Why += "; made again, it was not the same, so they do not follow from it"
	n.Hole, n.Later = nil, nil
	return writeJSON(filepath.Join(folder, noteName), n)
}

// moveArtifacts moves all that is made from results; the next start makes it again.
func (d *Dir) moveArtifacts(folder string) error {
	for _, name := range []string{Exports, Sheets, Report} {
		if err := d.move(d.Path(name), filepath.Join(folder, name)); err != nil {
			return err
		}
		if err := atomicfile.MakeDir(d.Path(name)); err != nil {
			return err
		}
	}
	return nil
}

// GoBack makes the run what it was when s was saved, a checkpoint of the phase at or a result before it; nil is the run's
// very start. Everything later, which is of the phases at and later, is moved to the folder that it returns, and so are
// exports, sheets and report. It is for a run opened by Resume.
func (d *Dir) GoBack(s *Snapshot, at Phase, later []Phase) (folder string, err error) {
	if d.lock == nil {
		return "", ErrReadOnly
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); err != nil {
		return "", err
	}
	position, length, sum := int64(0), int64(0), ""
	if s != nil {
		position, length, sum = s.Position, s.manifest.Stats, s.manifest.StatsSHA256
	}
	if err := d.compareStats(length, sum); err != nil {
		return "", err
	}
	if folder, err = d.newAside(note{Why: "the run was taken back to " + at.String()}, true); err != nil {
		return "", err
	}
	if err := d.movePhases(folder, later); err != nil {
		return folder, err
	}
	own := []string{d.resultFolder(at.Stage, at.Name)}
	checkpoints, err := subfolders(filepath.Join(d.PhasePath(at.Stage, at.Name), "checkpoints"))
	if err != nil {
		return folder, err
	}
	for _, c := range checkpoints {
		if m, err := readManifest(c); err != nil && !unsound(err) {
			return folder, err
		} else if err != nil || m.Point == nil || s == nil || m.Point.Position > position {
			own = append(own, c)
		}
	}
	for _, path := range own {
		if err := d.move(path, filepath.Join(folder, filepath.FromSlash(d.rel(path)))); err != nil {
			return folder, err
		}
	}
	if err := d.moveArtifacts(folder); err != nil {
		return folder, err
	}
	return folder, d.rewind(s)
}
