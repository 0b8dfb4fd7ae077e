package rundir

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// Check verifies every file of a run directory against the manifests: sizes
// and SHA-256 of all checkpoints, results and artifacts, the config against
// the lineage, and the form of stats.jsonl. It changes nothing and takes no
// lock; on a run that trains meanwhile it may report the checkpoint being
// written. No problem found is a nil slice; an error means that dir could not
// be examined at all.
func Check(dir string) ([]Problem, error) {
	d, err := View(dir)
	if err != nil {
		return nil, err
	}
	var out []Problem
	add := func(path, what string, harmless bool) {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			rel = path
		}
		out = append(out, Problem{Path: filepath.ToSlash(rel), What: what, Harmless: harmless})
	}

	config, err := d.Config()
	if err != nil {
		add(d.Path(configName), err.Error(), false)
	} else if sum := sha256.Sum256(config); hex.EncodeToString(sum[:]) != d.lineage.ConfigSHA256 {
		add(d.Path(configName), "was changed after the run started: its SHA-256 is not the one in "+lineageName, false)
	}
	for _, path := range []string{d.StatsPath(), d.TimingPath()} {
		if err := checkLines(path); err != nil {
			var torn *tornLine
			add(path, err.Error(), errors.As(err, &torn))
		}
	}
	for _, folder := range artifactFolders {
		checkFolder(d.Path(folder), add)
	}
	for _, glob := range []string{"checkpoints/*", "result"} {
		folders, err := filepath.Glob(filepath.Join(escapeGlob(d.Path("stages")), "*", "*", filepath.FromSlash(glob)))
		if err != nil {
			return nil, err
		}
		for _, folder := range folders {
			checkFolder(folder, add)
		}
	}
	d.checkForked(add)
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			add(path, err.Error(), false)
		} else if isTemp(e.Name()) {
			add(path, "left by an interrupted save", true)
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b Problem) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	return out, nil
}

func checkFolder(folder string, add func(path, what string, harmless bool)) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return
	}
	if err != nil {
		add(folder, err.Error(), false)
		return
	}
	m, err := readManifest(folder)
	if err != nil {
		s := skip(folder, err)
		add(folder, s.Why, s.Unfinished)
		return
	}
	for _, e := range m.Files {
		one := &manifest{Files: []entry{e}}
		if err := one.verify(folder); err != nil {
			add(folder, skip(folder, err).Why, false)
		}
	}
	for _, name := range m.strangers(folder) {
		add(filepath.Join(folder, name), "is not in the manifest", true)
	}
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
