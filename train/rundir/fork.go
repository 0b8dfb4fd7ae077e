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
	"strings"

	"fewstep/internal/atomicfile"
)

// Forked says that a run began with results of another run instead of training them.
type Forked struct {
	Run            string         `json:"run"`           // the other run's directory, as it was given
	ConfigSHA256   string         `json:"config_sha256"` // of its config.yaml
	FewstepVersion string         `json:"fewstep_version"`
	From           string         `json:"from"`    // the first phase that this run trains itself: "8/lora-cond"
	Results        []ForkedResult `json:"results"` // of the phases before it, in order
	Forked         *Forked        `json:"forked,omitempty"`
}

// ForkedResult is one result that was taken over.
type ForkedResult struct {
	Stage  string `json:"stage"`
	Phase  string `json:"phase"`
	SHA256 string `json:"manifest_sha256"` // its manifest's, which holds the digest of every file
}

// reusableRows is the folder below report/ whose files an evaluation finds again by what they were measured on.
const reusableRows = "rows/"

// Fork makes dir a run directory that has the results of a source run's phases, in the given order, and the source's
// statistics of them; phase after phase it continues as any run does. Each result is verified before and after. Files are
// hard links where the file system has them, else copies; no run changes a file of a result, so neither run can hurt the
// other. What the source has encoded of the data set comes along, and the rows that it has measured: a report takes those that
// its own protocol would make.
//
// dir must not exist or be empty. It appears complete or not at all; a process killed in between leaves a hidden folder
// beside it. from is the first phase that the new run trains itself.
func Fork(dir string, config []byte, lineage Lineage, source *Dir, from string, phases []ForkedResult) error {
	last, forked, err := source.shared(phases)
	if err != nil {
		return err
	}
	forked.From = from
	lineage.Forked = forked
	return atomicfile.WriteDir(dir, func(folder string) error {
		info, err := os.Stat(folder)
		if err != nil {
			return err
		}
		d := &Dir{root: folder, info: info, damaged: map[string]bool{}, step: source.step}
		for _, r := range forked.Results {
			if err := d.takeResult(source, r); err != nil {
				return err
			}
		}
		if err := d.takeStats(source, last); err != nil {
			return err
		}
		if err := d.takeArtifacts(source, Report, reusableRows); err != nil {
			return err
		}
		if err := d.takeArtifacts(source, Encoded, ""); err != nil {
			return err
		}
		if err := d.before("write " + configName); err != nil {
			return err
		}
		if err := d.bear(config, lineage); err != nil {
			return err
		}
		// The names of all folders are durable before the directory appears.
		return filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				err = syncFolder(path)
			}
			return err
		})
	})
}

// shared verifies the phases' results and returns the last of them.
func (d *Dir) shared(phases []ForkedResult) (last *Snapshot, forked *Forked, err error) {
	config, err := d.Config()
	if err != nil {
		return nil, nil, err
	}
	forked = &Forked{Run: d.root, ConfigSHA256: digest(config), FewstepVersion: d.lineage.FewstepVersion, Forked: d.lineage.Forked}
	for _, p := range phases {
		s, err := d.Result(p.Stage, p.Phase)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%s has not finished stage %s, phase %s: fork from an earlier phase, or let that run finish it", d.root, p.Stage, p.Phase)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("run to fork: %w", err)
		}
		last, p.SHA256 = s, s.Digest()
		forked.Results = append(forked.Results, p)
	}
	return last, forked, nil
}

// takeResult links a result into d and verifies it there.
func (d *Dir) takeResult(source *Dir, r ForkedResult) error {
	from, to := source.resultFolder(r.Stage, r.Phase), d.resultFolder(r.Stage, r.Phase)
	m, err := readManifest(from)
	if err != nil {
		return err
	}
	if m.SHA256 != r.SHA256 {
		return &Damaged{Path: from, Why: "it changed while it was taken over"}
	}
	for _, e := range append(m.Files, entry{Name: manifestName}) {
		if err := d.before("take " + e.Name); err != nil {
			return err
		}
		if err := take(filepath.Join(from, filepath.FromSlash(e.Name)), filepath.Join(to, filepath.FromSlash(e.Name))); err != nil {
			return err
		}
	}
	if err := d.hashes.verify(to, m); err != nil {
		return err
	}
	return syncFolder(to)
}

// takeStats copies the source's statistics as they were when its snapshot was saved.
func (d *Dir) takeStats(source *Dir, s *Snapshot) error {
	length := s.manifest.Stats
	if length == 0 {
		return nil
	}
	in, err := os.Open(source.StatsPath())
	if err != nil {
		return err
	}
	defer in.Close()
	if err := endsLine(in, length); err != nil {
		return err
	}
	if err := d.before("take " + statsName); err != nil {
		return err
	}
	return atomicfile.Write(d.StatsPath(), func(w io.Writer) error {
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(in, length))
		if err != nil {
			return err
		}
		if want := s.manifest.StatsSHA256; n < length || want != "" && want != hex.EncodeToString(h.Sum(nil)) {
			return fmt.Errorf("%s: its first %d bytes are not those with which %s was saved: it was changed from outside", source.StatsPath(), length, s.Folder)
		}
		return nil
	})
}

// takeArtifacts takes over what the source has measured, or has encoded: the data set is the same, as both lineages say. A
// file that is damaged is left behind: it can be made again.
func (d *Dir) takeArtifacts(source *Dir, folder, prefix string) error {
	root := source.Path(folder)
	m, err := readManifest(root)
	if err != nil {
		return nil // nothing was made, or the list of it is damaged
	}
	for _, e := range m.Files {
		if !strings.HasPrefix(e.Name, prefix) || source.hashes.sound(root, e) != nil {
			continue
		}
		path := source.ArtifactPath(folder, e.Name)
		if err := d.SaveArtifact(folder, File{Name: e.Name, WritePath: func(to string) error { return take(path, to) }}); err != nil {
			return err
		}
	}
	return nil
}

// take makes to the same file as from, a copy where it cannot be linked. A symbolic link is followed: what it points to
// may vanish with the source.
func take(from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if err := atomicfile.MakeDir(filepath.Dir(to)); err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return atomicfile.Write(to, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}

// Born says whether dir is a run directory already, and if so what it was made from.
func Born(dir string) (born bool, lineage Lineage, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, lineage, nil
	}
	if born, err = inspect(dir); err != nil || !born {
		return born, lineage, err
	}
	var l lineageFile
	err = readJSON(filepath.Join(dir, lineageName), &l)
	return true, l.Lineage, err
}

// checkForked adds results that are others than those the run was forked with.
func (d *Dir) checkForked(add func(path, what string, harmless bool)) {
	if d.lineage.Forked == nil {
		return
	}
	for _, r := range d.lineage.Forked.Results {
		folder := d.resultFolder(r.Stage, r.Phase)
		m, err := readManifest(folder)
		switch {
		case err != nil && skip(folder, err).Unfinished:
			add(folder, "is missing: the run was forked with it", false)
		case err == nil && m.SHA256 != r.SHA256:
			add(folder, "is not the result that the run was forked with", false)
		}
	}
}
