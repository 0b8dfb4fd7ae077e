package rundir

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/model/weights"
)

// Problem is something Check found.
type Problem struct {
	Path string `json:"path"` // relative to the run directory
	What string `json:"what"`
	// Harmless problems are leftovers of an interrupted process; the run
	// continues as if they were not there.
	Harmless bool `json:"harmless"`
}

func (p Problem) String() string {
	if p.Harmless {
		return fmt.Sprintf("%s: %s (harmless)", p.Path, p.What)
	}
	return fmt.Sprintf("%s: %s", p.Path, p.What)
}

// checker collects problems.
type checker struct {
	d   *Dir
	out []Problem
}

func (c *checker) add(path, what string, harmless bool) {
	c.out = append(c.out, Problem{Path: c.d.rel(path), What: what, Harmless: harmless})
}

// Check verifies every file of a run directory against the manifests: sizes
// and SHA-256 of all checkpoints, results and artifacts, the config, the lineage
// and the data set's state against their digests, and stats.jsonl against the
// digests that snapshots were saved with. Weights and optimizer states must be
// finite. ladder are the run's phases in order, or nil where they are not known:
// with them, results are missed that something later was made from.
//
// It changes nothing and takes no lock; on a run that trains meanwhile it may
// report the checkpoint being written. No problem found is a nil slice; an
// error means that dir could not be examined at all.
func Check(dir string, ladder ...Phase) ([]Problem, error) {
	dir = filepath.Clean(dir)
	born, err := inspect(dir)
	if err != nil {
		return nil, err
	}
	if !born {
		return nil, &NotRunDir{Dir: dir, Why: "it has no " + configName}
	}
	c := &checker{d: &Dir{root: dir}}
	if err := c.d.readLineage(); err != nil {
		c.add(c.d.Path(lineageName), err.Error(), false)
	}
	c.config()
	c.source()
	for _, folder := range append([]string{"stages"}, artifactFolders...) {
		if _, err := os.Stat(c.d.Path(folder)); err != nil {
			c.add(c.d.Path(folder), "the folder is missing", false)
		}
	}
	for _, folder := range artifactFolders {
		c.folder(c.d.Path(folder), false)
	}
	phases, err := c.d.phaseFolders()
	if err != nil {
		return nil, err
	}
	for _, phase := range phases {
		checkpoints, err := subfolders(filepath.Join(phase, "checkpoints"))
		if err != nil {
			return nil, err
		}
		for _, folder := range append(checkpoints, filepath.Join(phase, "result")) {
			c.folder(folder, true)
		}
	}
	if err := c.stats(); err != nil {
		return nil, err
	}
	if err := c.holes(ladder); err != nil {
		return nil, err
	}
	c.d.checkForked(c.add)
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			c.add(path, err.Error(), false)
		} else if path == c.d.Path(asideFolder) {
			return filepath.SkipDir
		} else if isTemp(e.Name()) {
			c.add(path, "left by an interrupted save", true)
		}
		return nil
	})
	slices.SortStableFunc(c.out, func(a, b Problem) int { return strings.Compare(a.Path, b.Path) })
	return c.out, nil
}

func (c *checker) config() {
	path := c.d.Path(configName)
	config, err := c.d.Config()
	switch sum := digest(config); {
	case err != nil:
		c.add(path, err.Error(), false)
	case sum == c.d.lineage.ConfigSHA256:
	case sum == c.d.lineage.ConfigBefore:
		c.add(path, "a change of settings was cut short; the next start makes it", true)
	default:
		c.add(path, "was changed after the run started: its SHA-256 is not the one in "+lineageName, false)
	}
}

func (c *checker) source() {
	var any json.RawMessage
	if err := ReadSource(c.d.root, &any); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.add(c.d.Path(sourceName), err.Error()+"; the next start checks the data set again", false)
	}
}

// folder compares a folder with its manifest; tensors of snapshots must be finite.
func (c *checker) folder(folder string, snapshot bool) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return
	}
	if err != nil {
		c.add(folder, err.Error(), false)
		return
	}
	m, err := readManifest(folder)
	if err != nil {
		s := skip(folder, err)
		c.add(folder, s.Why, s.Unfinished)
		return
	}
	for _, e := range m.Files {
		if err := c.d.hashes.sound(folder, e); err != nil {
			c.add(folder, skip(folder, err).Why, false)
		} else if snapshot && filepath.Ext(e.Name) == ".safetensors" {
			if name := notFinite(filepath.Join(folder, e.Name)); name != "" {
				c.add(folder, fmt.Sprintf("%s: tensor %q holds NaN or infinity: what is trained from it is lost; 'fewstep rewind' goes back", e.Name, name), false)
			}
		}
	}
	for _, name := range m.strangers(folder) {
		c.add(filepath.Join(folder, name), "is not in the manifest", true)
	}
}

// notFinite names the first tensor with a value that is not finite in a file whose bytes are those that were saved, "" where
// there is none.
func notFinite(path string) string {
	f, err := weights.Open(path)
	if err != nil {
		return "" // its writer made something else of it
	}
	defer f.Close()
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			continue
		}
		if i, err := t.NotFinite(); err == nil && i >= 0 {
			return name
		}
	}
	return ""
}

// stats compares stats.jsonl with the digests of its beginning that snapshots have, and the form of its lines.
func (c *checker) stats() error {
	for _, path := range []string{c.d.StatsPath(), c.d.TimingPath()} {
		if err := checkLines(path); err != nil {
			var torn *tornLine
			c.add(path, err.Error(), errors.As(err, &torn))
		}
	}
	found, _, err := c.d.list()
	if err != nil {
		return err
	}
	results, err := c.d.results()
	if err != nil {
		return err
	}
	all := append(found, results...)
	slices.SortFunc(all, func(a, b *Snapshot) int { return cmp.Compare(a.manifest.Stats, b.manifest.Stats) })
	f, err := os.Open(c.d.StatsPath())
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(os.DevNull)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var digest hash.Hash = sha256.New()
	length := int64(0)
	for _, s := range all {
		n, err := io.CopyN(digest, f, s.manifest.Stats-length)
		length += n
		switch sum := hex.EncodeToString(digest.Sum(nil)); {
		case err == io.EOF:
			c.add(c.d.StatsPath(), fmt.Sprintf("has %d bytes, and had %d when %s was saved", length, s.manifest.Stats, c.d.rel(s.Folder)), false)
			return nil
		case err != nil:
			return err
		case length > 0 && s.manifest.StatsSHA256 != "" && s.manifest.StatsSHA256 != sum:
			c.add(c.d.StatsPath(), fmt.Sprintf("its first %d bytes are not those with which %s was saved", length, c.d.rel(s.Folder)), false)
			return nil
		}
	}
	return nil
}

// holes looks for results that something later was made from, a result, a checkpoint or records, and that are missing.
func (c *checker) holes(ladder []Phase) error {
	last := -1 // the last phase of which anything is there
	missing := make([]bool, len(ladder))
	recorded, err := c.recordedPhase()
	if err != nil {
		return err
	}
	for i, p := range ladder {
		result, checkpoint, err := c.d.Begun(p)
		if err != nil {
			return err
		}
		missing[i] = !result
		if result || checkpoint || p == recorded {
			last = i
		}
	}
	for i := range max(last, 0) {
		if missing[i] {
			c.add(c.d.resultFolder(ladder[i].Stage, ladder[i].Name), fmt.Sprintf("is missing, and %s was made after it: 'fewstep run' trains this phase again", ladder[last]), false)
		}
	}
	return nil
}

// recordedPhase is the phase of the last record in stats.jsonl.
func (c *checker) recordedPhase() (p Phase, err error) {
	f, err := os.Open(c.d.StatsPath())
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return p, err
	}
	const most = 64 << 10 // a record has some hundred bytes
	tail := make([]byte, min(info.Size(), most))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && err != io.EOF {
		return p, err
	}
	for line := range bytes.Lines(tail) {
		var record struct{ Stage, Phase string }
		if json.Unmarshal(line, &record) == nil && record.Stage != "" {
			p = Phase{record.Stage, record.Phase}
		}
	}
	return p, nil
}

type tornLine struct{ n int }

func (e *tornLine) Error() string {
	return fmt.Sprintf("line %d is not finished; the run cuts it off when it continues", e.n)
}

// checkLines checks that path, if it exists, holds one JSON object per line.
func checkLines(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			return nil
		case err == io.EOF:
			return &tornLine{n}
		case err != nil:
			return err
		case !json.Valid(line):
			return fmt.Errorf("line %d is not JSON", n)
		}
	}
}
