// Package rundir keeps everything one distillation run leaves on disk, so that
// the directory explains itself, survives kill -9 at any byte, and can be
// checked by anybody later.
//
//	config.yaml      the resolved configuration the run was started with
//	lineage.json     what went in: base weights, data manifest, fewstep version
//	source.json      what was found out about the data set: its files are not checked again while they stay as they are
//	lock             held (flock) while a process trains here; names its pid
//	stats.jsonl      one record per optimizer step, no wall-clock: the report's source
//	timing.jsonl     wall-clock beside it; a log of what happened, never cut back
//	events/          TensorBoard event files, one per start or continuation
//	stages/STAGE/PHASE/checkpoints/POSITION/   resumable state, the newest few
//	stages/STAGE/PHASE/result/                 final weights, kept for ever
//	exports/ sheets/ report/ encoded/          artifacts, each folder with a manifest
//	aside/NUMBER/    what was damaged, or no longer follows from what is before it; nothing here is read again but to be put back
//
// Checkpoints and results are snapshots: folders whose manifest.json (names,
// sizes, SHA-256, metadata) is written last, so a folder without one was never
// finished and is never loaded. A run continues like this:
//
//	d, err := rundir.Open(dir, resolved, lineage)
//	prev, err := d.Result(stage, phase)         // for each phase in order: the first without one is current
//	ckpt, skipped, err := d.LatestCheckpoint()  // newest that verifies; tell the user what was skipped
//	...                                         // ckpt if it is of the current phase, else prev
//	err = d.Rewind(from)                        // stats.jsonl as it was when from was saved
//	...                                         // train; records go to stats.jsonl first, then:
//	err = d.SaveCheckpoint(point, meta, files...)
//	...
//	err = d.SaveResult(point, meta, files...)
//
// Positions are counted in samples over the whole run, never in seconds.
//
// # What survives
//
// Damage is a missing file, a wrong size or a wrong digest. Every other error, of listing or opening or reading, may pass: it
// ends the start, and nothing is changed by it. What is damaged is never deleted. A checkpoint goes to aside/, and the run
// goes on from the one before it; where a phase has none left, the run refuses. An artifact (encoding, export, sheet, row or
// page of the report) is made again. Digests are compared once per process and file, for as long as its size, time and inode
// stay.
//
// A result that is missing, because somebody deleted its folder, is found before anything is changed. Its phase is trained
// again; what was made after it waits in aside/ (TakeOut) and comes back (PutBack) where the statistics of the phase are
// the same bytes as before, so that its weights are too. GoBack takes a run to an earlier state in the same way.
//
// Settings of phases that have not begun may change, and the rates of one that has; so may the machine. Both are noted in
// lineage.json with the position. Every other difference in the recipe, the model's files or the data is refused.
//
// Weights and optimizer states that are not finite are not saved. A directory that is renamed, removed or replaced while a
// run trains in it is noticed by the next save, which leaves nothing in the old place. On a disk that cannot be written a
// finished run says so.
//
// ATTACKS.md tells how this was tried and how often; the command in the folder attack writes it.
package rundir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"fewstep/internal/atomicfile"
)

const (
	configName  = "config.yaml"
	lineageName = "lineage.json"
	lockName    = "lock"
	statsName   = "stats.jsonl"
	timingName  = "timing.jsonl"
	sourceName  = "source.json"
	format      = "fewstep-run/1"
)

// Names that a directory may hold before its config.yaml exists: an Open that
// was killed half-way left them.
var unborn = []string{lockName, lineageName}

// Dir is an open run directory. Its methods may be called from several
// goroutines.
type Dir struct {
	// Keep is how many complete checkpoints SaveCheckpoint leaves, over all
	// phases; less than 2 counts as 2. Set it right after Open.
	Keep int

	// Told, which may be nil, hears of files that are damaged or were moved, one sentence each.
	Told func(sentence string)

	root     string
	info     fs.FileInfo // of root
	lineage  lineageFile
	lock     *os.File // nil: opened by View, read-only but for artifacts
	readOnly error    // why nothing can be written
	isNew    bool
	notes    []string
	hashes   hashes

	mu      sync.Mutex
	stats   recorded
	damaged map[string]bool         // checkpoint folders that failed verification
	heard   map[string]bool         // what Told has heard
	step    func(what string) error // tests: called before every change on disk
}

// ErrReadOnly is returned by methods that change a run opened by View.
var ErrReadOnly = errors.New("run directory is open for reading only")

// Rules say how a continuation may differ from the start.
type Rules struct {
	// MayDiffer lists key paths ("progress.interval", "metrics") whose values,
	// and all below them, do not change the result; config.yaml keeps the values
	// of the first start.
	MayDiffer []string
	// MayChange says of any other key whether it may be changed now, because
	// what it is about has not begun; config.yaml is replaced then, and the
	// change noted in the lineage. nil = never.
	MayChange func(d *Dir, key string) (bool, error)
	// Normal gives the old config.yaml with the keys that it lacks and the
	// values that those had before they existed; nil = as it is.
	Normal func(config []byte) []byte
}

// Open is OpenWith where only keys may differ.
func Open(dir string, resolvedConfig []byte, lineage Lineage, mayDiffer ...string) (*Dir, error) {
	return OpenWith(dir, resolvedConfig, lineage, Rules{MayDiffer: mayDiffer})
}

// OpenWith creates the run directory, or continues the one that is there, and
// locks it against other processes until Close. Where the disk cannot be
// written, a directory that is there is opened without a lock, and its methods
// that change anything return that error.
//
// resolvedConfig is the YAML of the fully resolved configuration.
//
// Errors: *ConfigMismatch, *LineageMismatch, *Locked, *NotRunDir; any other is
// an I/O error.
func OpenWith(dir string, resolvedConfig []byte, lineage Lineage, rules Rules) (*Dir, error) {
	if _, err := parseYAML(resolvedConfig); err != nil {
		return nil, fmt.Errorf("resolved config for run directory %s: %w", dir, err)
	}
	dir = filepath.Clean(dir)
	if err := atomicfile.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	d, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := d.open(resolvedConfig, lineage, rules); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Resume opens and locks the run directory that is there, whatever it was made
// from: for taking it back to an earlier state.
func Resume(dir string) (*Dir, error) {
	dir = filepath.Clean(dir)
	if born, err := inspect(dir); err != nil {
		return nil, err
	} else if !born {
		return nil, &NotRunDir{Dir: dir, Why: "it has no " + configName}
	}
	d, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	err = errors.Join(d.readOnly, d.cleanTemp(), d.readLineage())
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func lockDir(dir string) (*Dir, error) {
	// Look before the lock file is made, so that a foreign folder stays untouched.
	if _, err := inspect(dir); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	d := &Dir{Keep: 2, root: dir, info: info, damaged: map[string]bool{}}
	lock, note, err := acquire(dir)
	switch {
	case readOnlyDisk(err):
		d.readOnly = err
	case err != nil:
		return nil, err
	}
	d.lock = lock
	if note != "" {
		d.notes = append(d.notes, note)
	}
	return d, nil
}

func (d *Dir) open(config []byte, lineage Lineage, rules Rules) error {
	born, err := inspect(d.root)
	if err != nil {
		return err
	}
	if d.readOnly != nil {
		if !born {
			return d.readOnly
		}
		return d.resume(config, lineage, rules)
	}
	if err := d.cleanTemp(); err != nil {
		return err
	}
	if born {
		return d.resume(config, lineage, rules)
	}
	d.isNew = true
	if err := syncFolder(filepath.Dir(d.root)); err != nil { // a process that was killed may have made it
		return err
	}
	return d.bear(config, lineage)
}

// bear makes a folder a run directory.
func (d *Dir) bear(config []byte, lineage Lineage) error {
	d.lineage = lineageFile{Format: format, ConfigSHA256: digest(config), Lineage: lineage}
	if err := d.writeLineage(); err != nil {
		return err
	}
	for _, sub := range append([]string{"events", "stages"}, artifactFolders...) {
		if err := atomicfile.MakeDir(d.Path(sub)); err != nil {
			return fmt.Errorf("create run directory: %w", err)
		}
	}
	// Last: its presence makes this a run directory.
	return atomicfile.WriteBytes(d.Path(configName), config)
}

// View opens a run directory without locking it, for reading snapshots and
// stats and for writing artifacts (report, exports), also while it trains.
func View(dir string) (*Dir, error) {
	dir = filepath.Clean(dir)
	born, err := inspect(dir)
	if err != nil {
		return nil, err
	}
	if !born {
		return nil, &NotRunDir{Dir: dir, Why: "it has no " + configName}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	d := &Dir{Keep: 2, root: dir, info: info, damaged: map[string]bool{}}
	return d, d.readLineage()
}

// Close releases the lock. The directory stays as it is.
func (d *Dir) Close() error {
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}

// inspect reports whether dir is a complete run directory (born) or may become
// one; anything else is a *NotRunDir.
func inspect(dir string) (born bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("open run directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if slices.Contains(names, configName) && slices.Contains(names, lineageName) {
		var l lineageFile
		raw, err := os.ReadFile(filepath.Join(dir, lineageName))
		if err != nil {
			return false, fmt.Errorf("open run directory: %w", err)
		}
		if err := json.Unmarshal(raw, &l); err != nil {
			return false, &NotRunDir{Dir: dir, Why: fmt.Sprintf("%s is damaged: %v; bring it back from a copy if this was a run", lineageName, err)}
		}
		if l.Format != format {
			return false, &NotRunDir{Dir: dir, Why: fmt.Sprintf("%s says format %q, this program knows %q", lineageName, l.Format, format)}
		}
		return true, nil
	}
	for _, n := range names {
		if slices.Contains(unborn, n) || isTemp(n) {
			continue
		}
		if slices.Contains(names, lineageName) {
			empty, err := emptyTree(filepath.Join(dir, n))
			if err != nil {
				return false, fmt.Errorf("open run directory: %w", err)
			}
			if empty {
				continue
			}
		}
		why := "it is not empty and holds " + n
		if slices.Contains(names, configName) {
			why += "; if this was a run, bring its " + lineageName + " back from a copy"
		}
		return false, &NotRunDir{Dir: dir, Why: why}
	}
	return false, nil
}

// emptyTree reports whether path is a folder without entries.
func emptyTree(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false, err
	}
	entries, err := os.ReadDir(path)
	return len(entries) == 0, err
}

// isTemp reports whether name is a temporary file that an interrupted atomic
// write left behind.
func isTemp(name string) bool {
	return strings.HasPrefix(name, ".fewstep-tmp-")
}

// New reports whether Open created the directory.
func (d *Dir) New() bool { return d.isNew }

// Notes lists what Open found worth telling the user, one sentence each.
func (d *Dir) Notes() []string { return slices.Clone(d.notes) }

// ReadOnly is why nothing can be written to the directory, nil where it can.
func (d *Dir) ReadOnly() error { return d.readOnly }

// tell says a sentence once per process.
func (d *Dir) tell(sentence string) {
	if d.Told == nil || d.heard[sentence] {
		return
	}
	if d.heard == nil {
		d.heard = map[string]bool{}
	}
	d.heard[sentence] = true
	d.Told(sentence)
}

// Path joins elem to the run directory's own path.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// StatsPath is the file of per-step records that Rewind cuts back.
func (d *Dir) StatsPath() string { return d.Path(statsName) }

// TimingPath is the file of wall-clock records.
func (d *Dir) TimingPath() string { return d.Path(timingName) }

// sourceFile is what is kept of the data set, with its digest.
type sourceFile struct {
	SHA256 string          `json:"sha256"` // of Source, compact
	Source json.RawMessage `json:"source"`
}

func (s *sourceFile) sum() string {
	var b bytes.Buffer
	if json.Compact(&b, s.Source) != nil {
		return ""
	}
	return digest(b.Bytes())
}

// ReadSource reads what an earlier process found out about the data set of a run directory, which need not be there.
func ReadSource(dir string, into any) error {
	var s sourceFile
	path := filepath.Join(dir, sourceName)
	if err := readJSON(path, &s); err != nil {
		return err
	}
	if s.SHA256 != s.sum() {
		return fmt.Errorf("%s does not match its own SHA-256", path)
	}
	return json.Unmarshal(s.Source, into)
}

// WriteSource keeps it for the next process.
func (d *Dir) WriteSource(v any) error {
	if d.readOnly != nil {
		return nil // it saves time only
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s := sourceFile{Source: raw}
	s.SHA256 = s.sum()
	return writeJSON(d.Path(sourceName), s)
}

// EventsPath is the folder of TensorBoard event files.
func (d *Dir) EventsPath() string { return d.Path("events") }

// PhasePath is the folder of one phase of one stage.
func (d *Dir) PhasePath(stage, phase string) string { return d.Path("stages", stage, phase) }

func (d *Dir) before(what string) error {
	if d.step != nil {
		return d.step(what)
	}
	return nil
}

// NotRunDir says that a directory is neither empty nor a run directory.
type NotRunDir struct{ Dir, Why string }

func (e *NotRunDir) Error() string {
	return fmt.Sprintf("%s is not a run directory: %s; choose an empty or new directory", e.Dir, e.Why)
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, append(b, '\n'))
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
