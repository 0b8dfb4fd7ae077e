package rundir

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Point is a place in the run's progress.
type Point struct {
	Stage    string `json:"stage"`    // folder name of the stage
	Phase    string `json:"phase"`    // folder name of the phase within it
	Samples  int64  `json:"samples"`  // samples done in this phase
	Position int64  `json:"position"` // samples done in the whole run; never decreases
}

// Snapshot is a complete, verified folder of files: a checkpoint or a result.
type Snapshot struct {
	Point
	Folder string // absolute or relative as the run directory was given

	manifest *manifest
}

// Checkpoint is the state from which a run continues.
type Checkpoint = Snapshot

// Path is where the snapshot's file lies.
func (s *Snapshot) Path(file string) string { return filepath.Join(s.Folder, file) }

// Files lists the names of the snapshot's files in the order of saving.
func (s *Snapshot) Files() []string {
	var names []string
	for _, e := range s.manifest.Files {
		names = append(names, e.Name)
	}
	return names
}

// SHA256 is the digest of one of the snapshot's files, "" where there is none
// of that name.
func (s *Snapshot) SHA256(file string) string {
	for _, e := range s.manifest.Files {
		if e.Name == file {
			return e.SHA256
		}
	}
	return ""
}

// Meta decodes the metadata given when the snapshot was saved into v.
func (s *Snapshot) Meta(v any) error {
	if s.manifest.Meta == nil {
		return fmt.Errorf("%s: the snapshot was saved without metadata", s.Folder)
	}
	if err := json.Unmarshal(s.manifest.Meta, v); err != nil {
		return fmt.Errorf("%s: metadata: %w", s.Folder, err)
	}
	return nil
}

// Skipped is a checkpoint that LatestCheckpoint passed over.
type Skipped struct {
	Phase
	Folder string
	Why    string
	// Unfinished: the process ended while saving or deleting it, nothing is
	// wrong. Otherwise files changed after they were complete.
	Unfinished bool
}

func (s Skipped) String() string { return s.Folder + ": " + s.Why }

// SaveCheckpoint saves the state at p, then deletes all but the newest Keep
// complete checkpoints. Every record up to p must be in stats.jsonl before;
// its bytes are synced first, and Rewind returns to them.
//
// meta is kept as JSON; nil for none. A sound checkpoint of the same point and
// metadata is left as it is, because the state follows from the point. After an
// error the older checkpoints are all still there.
func (d *Dir) SaveCheckpoint(p Point, meta any, files ...File) error {
	return d.saveCheckpoint(p, meta, files, nil)
}

// saveCheckpoint is SaveCheckpoint with the files that collect adds.
func (d *Dir) saveCheckpoint(p Point, meta any, files []File, collect collecting) (err error) {
	defer d.explain(&err)
	if d.lock == nil {
		return ErrReadOnly
	}
	if err := checkNames(p.Stage, p.Phase); err != nil {
		return err
	}
	if p.Position < 0 || p.Samples < 0 {
		return fmt.Errorf("checkpoint at negative position %d (samples %d)", p.Position, p.Samples)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); err != nil {
		return err
	}
	found, _, err := d.list()
	if err != nil {
		return err
	}
	m := &manifest{Point: &p}
	if m.Stats, m.StatsSHA256, err = d.syncStats(); err != nil {
		return err
	}
	folder := d.checkpointFolder(p)
	for _, c := range found {
		if c.Folder != folder || !c.same(m, meta) {
			continue
		}
		if err := d.hashes.verify(folder, c.manifest); err == nil {
			return nil
		} else if !unsound(err) {
			return err
		}
	}
	if err := d.save(folder, m, meta, files, collect); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	delete(d.damaged, folder)
	if err := d.prune(folder); err != nil {
		return fmt.Errorf("checkpoint %s is saved, but older ones could not be deleted: %w", folder, err)
	}
	return nil
}

// same reports whether c was saved with the point, records and metadata given.
func (c *Checkpoint) same(m *manifest, meta any) bool {
	var b []byte
	if meta != nil {
		b, _ = json.Marshal(meta)
	}
	var old bytes.Buffer
	if c.manifest.Meta != nil && json.Compact(&old, c.manifest.Meta) != nil {
		return false
	}
	return c.Point == *m.Point && c.manifest.Stats == m.Stats && c.manifest.StatsSHA256 == m.StatsSHA256 && bytes.Equal(old.Bytes(), b)
}

// prune keeps the newest complete checkpoints and deletes the others, as well
// as what interrupted saves left. It counts as complete what has a manifest,
// right sizes and no failed verification; the folder keep always stays. A
// damaged one is set aside, never deleted.
func (d *Dir) prune(keep string) error {
	found, skipped, err := d.list()
	if err != nil {
		return err
	}
	kept := 0
	var bad []string
	for _, c := range found {
		if err := c.manifest.sizes(c.Folder); unsound(err) || d.damaged[c.Folder] {
			bad = append(bad, c.Folder)
			continue
		} else if err != nil {
			return err
		}
		if kept < max(d.Keep, 2) || c.Folder == keep {
			kept++
			continue
		}
		if err := d.remove(c.Folder); err != nil {
			return err
		}
	}
	if err := d.setAside("damaged checkpoints", bad); err != nil {
		return err
	}
	return d.removeUnfinished(skipped)
}

// removeUnfinished deletes what interrupted saves and deletions left. A folder
// whose manifest is there but cannot be read stays, for a person to look at.
func (d *Dir) removeUnfinished(skipped []Skipped) error {
	for _, s := range skipped {
		if !s.Unfinished {
			continue
		}
		if err := d.remove(s.Folder); err != nil {
			return err
		}
	}
	return nil
}

// phaseFolders lists stages/STAGE/PHASE of all phases that have one, in the order of their names.
func (d *Dir) phaseFolders() (out []string, err error) {
	stages, err := subfolders(d.Path("stages"))
	if err != nil {
		return nil, err
	}
	for _, s := range stages {
		phases, err := subfolders(s)
		if err != nil {
			return nil, err
		}
		out = append(out, phases...)
	}
	return out, nil
}

// subfolders lists the folders in dir, which need not be there. An entry that cannot be looked at is an error: what cannot
// be read for a moment is not gone.
func subfolders(dir string) (out []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			out = append(out, path)
		}
	}
	return out, nil
}

// list finds the checkpoints with a readable manifest, newest first, and those
// without.
func (d *Dir) list() (found []*Checkpoint, skipped []Skipped, err error) {
	phases, err := d.phaseFolders()
	if err != nil {
		return nil, nil, err
	}
	for _, phase := range phases {
		folders, err := subfolders(filepath.Join(phase, "checkpoints"))
		if err != nil {
			return nil, nil, err
		}
		for _, folder := range folders {
			m, err := readManifest(folder)
			if err == nil && m.Point == nil {
				err = &Damaged{Path: folder, Why: manifestName + " has no point"}
			}
			switch {
			case unsound(err):
				skipped = append(skipped, skip(folder, err))
			case err != nil:
				return nil, nil, err
			default:
				found = append(found, &Checkpoint{Point: *m.Point, Folder: folder, manifest: m})
			}
		}
	}
	slices.SortFunc(found, func(a, b *Checkpoint) int {
		return cmp.Or(cmp.Compare(b.Position, a.Position), cmp.Compare(b.manifest.Seq, a.manifest.Seq))
	})
	return found, skipped, nil
}

// skip makes what is known of a checkpoint's folder, stages/STAGE/PHASE/checkpoints/POSITION, of its error.
func skip(folder string, err error) Skipped {
	phase := filepath.Dir(filepath.Dir(folder))
	s := Skipped{Folder: folder, Why: err.Error(), Phase: Phase{filepath.Base(filepath.Dir(phase)), filepath.Base(phase)}}
	var dmg *Damaged
	if errors.As(err, &dmg) {
		s.Why, s.Unfinished = dmg.Why, dmg.Why == neverFinished
	}
	return s
}

// LatestCheckpoint is the newest checkpoint whose files all have the size and
// SHA-256 of its manifest, or nil where there is none. Those passed over are
// listed with the reason; they are not deleted. An error of reading is no
// reason to pass one over: it is returned.
func (d *Dir) LatestCheckpoint() (*Checkpoint, []Skipped, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found, skipped, err := d.list()
	if err != nil {
		return nil, nil, err
	}
	for _, c := range found {
		err := d.hashes.verify(c.Folder, c.manifest)
		switch {
		case err == nil:
			return c, skipped, nil
		case !unsound(err):
			return nil, nil, err
		}
		d.damaged[c.Folder] = true
		skipped = append(skipped, skip(c.Folder, err))
	}
	return nil, skipped, nil
}

// Checkpoint is the verified one of a point. Errors: fs.ErrNotExist where there is none, *Damaged.
func (d *Dir) Checkpoint(p Point) (*Checkpoint, error) {
	if err := checkNames(p.Stage, p.Phase); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	folder := d.checkpointFolder(p)
	m, err := readManifest(folder)
	if err != nil {
		if skip(folder, err).Unfinished {
			return nil, fmt.Errorf("no checkpoint %s: %w", folder, fs.ErrNotExist)
		}
		return nil, err
	}
	if m.Point == nil || *m.Point != p {
		return nil, &Damaged{Path: folder, Why: manifestName + " is of another point"}
	}
	if err := d.hashes.verify(folder, m); err != nil {
		return nil, err
	}
	return &Checkpoint{Point: p, Folder: folder, manifest: m}, nil
}

func (d *Dir) checkpointFolder(p Point) string {
	return filepath.Join(d.PhasePath(p.Stage, p.Phase), "checkpoints", fmt.Sprintf("%012d", p.Position))
}

// Checkpoints lists the sound ones, newest first.
func (d *Dir) Checkpoints() (sound []*Checkpoint, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found, _, err := d.list()
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		err := d.hashes.verify(c.Folder, c.manifest)
		switch {
		case err == nil:
			sound = append(sound, c)
		case !unsound(err):
			return nil, err
		}
	}
	return sound, nil
}

// Digest identifies the snapshot's content: the manifest's own SHA-256.
func (s *Snapshot) Digest() string { return s.manifest.SHA256 }
