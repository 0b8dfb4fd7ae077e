package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/internal/atomicfile"
)

// Folders of artifacts, each with a manifest of its own.
const (
	Exports = "exports" // weight files for other programs
	Sheets  = "sheets"  // sample sheets
	Report  = "report"  // index.html and metrics.csv
	Encoded = "encoded" // what text encoders and VAE made of the data set
)

var artifactFolders = []string{Exports, Sheets, Report, Encoded}

// SaveArtifact writes or replaces one file below one of these folders and
// lists it in that folder's manifest. f.Name is slash-separated and may have
// folders of its own ("4step/unet/config.json"). It also works on a run opened
// by View, and while the run trains in another process.
func (d *Dir) SaveArtifact(folder string, f File) (err error) {
	defer d.explain(&err)
	if !slices.Contains(artifactFolders, folder) {
		return fmt.Errorf("no artifact folder %q in a run directory: it has %s", folder, strings.Join(artifactFolders, ", "))
	}
	for part := range strings.SplitSeq(f.Name, "/") {
		if !validName.MatchString(part) {
			return fmt.Errorf("bad artifact name %q", f.Name)
		}
	}
	if f.Name == manifestName || (f.Write == nil) == (f.WritePath == nil) {
		return fmt.Errorf("artifact %q: bad name, or not exactly one of Write and WritePath", f.Name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); err != nil {
		return fmt.Errorf("save artifact: %w", err)
	}
	root := d.Path(folder)
	if err := atomicfile.MakeDir(root); err != nil {
		return fmt.Errorf("save artifact: %w", err)
	}
	unlock, err := lockFolder(root)
	if err != nil {
		return fmt.Errorf("save artifact: %w", err)
	}
	defer unlock()

	m, err := readManifest(root)
	switch {
	case unsound(err): // none yet, or of files that can all be made again
		m = &manifest{Format: format}
	case err != nil:
		return fmt.Errorf("save artifact: %w", err)
	}
	listed := func(e entry) bool { return e.Name == f.Name }
	// A file about to change is taken off the list first, so that the list never
	// says anything false.
	if slices.ContainsFunc(m.Files, listed) {
		m.Files = slices.DeleteFunc(m.Files, listed)
		if err := d.writeArtifactManifest(root, m); err != nil {
			return err
		}
	}
	if err := d.before("write " + f.Name); err != nil {
		return err
	}
	e, err := put(root, f.Name, f)
	if gone := d.inPlace(); gone != nil { // in the middle of it
		path := filepath.Join(root, filepath.FromSlash(f.Name))
		err = errors.Join(gone, os.Remove(path))
		d.removeGhost(path)
	}
	if err != nil {
		return fmt.Errorf("save artifact: %w", err)
	}
	m.Files = append(m.Files, e)
	slices.SortFunc(m.Files, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return d.writeArtifactManifest(root, m)
}

func (d *Dir) writeArtifactManifest(root string, m *manifest) error {
	if err := d.before("write " + manifestName + " of " + root); err != nil {
		return err
	}
	if err := m.write(root); err != nil {
		return fmt.Errorf("save artifact: %w", err)
	}
	return nil
}

// Artifacts lists the names of the files below one of these folders that were
// saved completely and are still what was saved: of every file the digest is
// compared, once per process for as long as its size and time stay. A file that
// is there and not listed is of a save that was cut short or was changed since,
// and to be saved again; of the latter Told hears once.
func (d *Dir) Artifacts(folder string) ([]string, error) {
	root := d.Path(folder)
	m, err := readManifest(root)
	if unsound(err) {
		if !skip(root, err).Unfinished {
			d.tell(err.Error() + ": everything in this folder is made again")
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range m.Files {
		err := d.hashes.sound(root, e)
		switch {
		case err == nil:
			names = append(names, e.Name)
		case unsound(err):
			d.tell(err.Error() + ": it is made again")
		default:
			return nil, err
		}
	}
	return names, nil
}

// HasArtifact says whether one of the Artifacts has this name.
func (d *Dir) HasArtifact(folder, name string) (bool, error) {
	names, err := d.Artifacts(folder)
	return slices.Contains(names, name), err
}

// ArtifactPath is where an artifact lies.
func (d *Dir) ArtifactPath(folder, name string) string {
	return d.Path(folder, filepath.FromSlash(path.Clean(name)))
}

// cleanTemp removes temporary files of killed writers from all folders.
func (d *Dir) cleanTemp() error {
	var failed error
	folders := []string{d.root, d.EventsPath()}
	for _, below := range append([]string{"stages"}, artifactFolders...) {
		filepath.WalkDir(d.Path(below), func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				folders = append(folders, p)
			}
			return nil
		})
	}
	for _, f := range folders {
		failed = errors.Join(failed, atomicfile.CleanTemp(f))
	}
	return failed
}
