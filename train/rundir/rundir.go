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
package rundir

import (
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

// Lineage says what a run was made from. A continuation with other inputs is
// refused; another fewstep version is only noted.
type Lineage struct {
	FewstepVersion string            `json:"fewstep_version"`
	BaseWeights    string            `json:"base_weights_sha256"`  // digest of the base model's weights
	DataManifest   string            `json:"data_manifest_sha256"` // digest of the data cache's manifest
	Extra          map[string]string `json:"extra,omitempty"`      // any other input that must not change
	Forked         *Forked           `json:"forked,omitempty"`     // the run whose results this one began with; set by Fork
}

type lineageFile struct {
	Format       string `json:"format"`
	ConfigSHA256 string `json:"config_sha256"`
	Lineage
}

// Dir is an open run directory. Its methods may be called from several
// goroutines.
type Dir struct {
	// Keep is how many complete checkpoints SaveCheckpoint leaves, over all
	// phases; less than 2 counts as 2. Set it right after Open.
	Keep int

	root    string
	lineage lineageFile
	lock    *os.File // nil: opened by View, read-only but for artifacts
	isNew   bool
	notes   []string

	mu      sync.Mutex
	damaged map[string]bool         // checkpoint folders that failed verification
	step    func(what string) error // tests: called before every change on disk
}

// ErrReadOnly is returned by methods that change a run opened by View.
var ErrReadOnly = errors.New("run directory is open for reading only")

// Open creates the run directory, or continues the one that is there, and
// locks it against other processes until Close.
//
// resolvedConfig is the YAML of the fully resolved configuration. mayDiffer
// lists key paths ("progress.interval", "metrics") whose values, and all below
// them, do not change the result and so may differ in a continuation;
// config.yaml keeps the values of the first start.
//
// Errors: *ConfigMismatch, *LineageMismatch, *Locked, *NotRunDir; any other is
// an I/O error.
func Open(dir string, resolvedConfig []byte, lineage Lineage, mayDiffer ...string) (*Dir, error) {
	if _, err := parseYAML(resolvedConfig); err != nil {
		return nil, fmt.Errorf("resolved config for run directory %s: %w", dir, err)
	}
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, fmt.Errorf("create run directory: %w", err)
		}
	}
	// Look before the lock file is made, so that a foreign folder stays untouched.
	if _, err := inspect(dir); err != nil {
		return nil, err
	}
	lock, note, err := acquire(dir)
	if err != nil {
		return nil, err
	}
	d := &Dir{Keep: 2, root: dir, lock: lock, damaged: map[string]bool{}}
	if note != "" {
		d.notes = append(d.notes, note)
	}
	if err := d.open(resolvedConfig, lineage, mayDiffer); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) open(config []byte, lineage Lineage, mayDiffer []string) error {
	born, err := inspect(d.root)
	if err != nil {
		return err
	}
	if err := d.cleanTemp(); err != nil {
		return err
	}
	if !born {
		d.isNew = true
		return d.bear(config, lineage)
	}
	old, err := os.ReadFile(d.Path(configName))
	if err != nil {
		return err
	}
	changes, err := diffYAML(old, config, mayDiffer)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path(configName), err)
	}
	if len(changes) > 0 {
		return newConfigMismatch(d.root, changes)
	}
	if err := readJSON(d.Path(lineageName), &d.lineage); err != nil {
		return err
	}
	if changes := DiffLineage(d.lineage.Lineage, lineage); len(changes) > 0 {
		return &LineageMismatch{Dir: d.root, Changes: changes}
	}
	if was := d.lineage.FewstepVersion; was != lineage.FewstepVersion {
		d.notes = append(d.notes, fmt.Sprintf("run was started by fewstep %s and is continued by %s; results may differ in the last bits", was, lineage.FewstepVersion))
	}
	return nil
}

// bear makes a folder a run directory.
func (d *Dir) bear(config []byte, lineage Lineage) error {
	sum := sha256.Sum256(config)
	d.lineage = lineageFile{Format: format, ConfigSHA256: hex.EncodeToString(sum[:]), Lineage: lineage}
	if err := writeJSON(d.Path(lineageName), d.lineage); err != nil {
		return err
	}
	for _, sub := range append([]string{"events", "stages"}, artifactFolders...) {
		if err := os.MkdirAll(d.Path(sub), 0o777); err != nil {
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
	d := &Dir{Keep: 2, root: dir, damaged: map[string]bool{}}
	if err := readJSON(d.Path(lineageName), &d.lineage); err != nil {
		return nil, err
	}
	return d, nil
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
		if err := readJSON(filepath.Join(dir, lineageName), &l); err != nil {
			return false, &NotRunDir{Dir: dir, Why: err.Error()}
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
		if slices.Contains(names, lineageName) && emptyTree(filepath.Join(dir, n)) {
			continue
		}
		return false, &NotRunDir{Dir: dir, Why: "it is not empty and holds " + n}
	}
	return false, nil
}

// emptyTree reports whether path is a folder without entries.
func emptyTree(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && len(entries) == 0
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

// Lineage is what the run was started from.
func (d *Dir) Lineage() Lineage { return d.lineage.Lineage }

// Config is the resolved configuration the run was started with, as YAML.
func (d *Dir) Config() ([]byte, error) { return os.ReadFile(d.Path(configName)) }

// Path joins elem to the run directory's own path.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// StatsPath is the file of per-step records that Rewind cuts back.
func (d *Dir) StatsPath() string { return d.Path(statsName) }

// TimingPath is the file of wall-clock records.
func (d *Dir) TimingPath() string { return d.Path(timingName) }

// ReadSource reads what an earlier process found out about the data set of a run directory, which need not be there.
func ReadSource(dir string, into any) error { return readJSON(filepath.Join(dir, sourceName), into) }

// WriteSource keeps it for the next process.
func (d *Dir) WriteSource(v any) error { return writeJSON(d.Path(sourceName), v) }

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
