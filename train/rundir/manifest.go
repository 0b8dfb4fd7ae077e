package rundir

import (
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
	"regexp"
	"slices"
	"strings"

	"fewstep/internal/atomicfile"
)

const manifestName = "manifest.json"

// File is one file to be saved, by exactly one of two functions.
type File struct {
	Name      string                  // plain file name
	Write     func(w io.Writer) error // fills it; must not keep w
	WritePath func(path string) error // creates the file at path, as weights.Write does
}

// Bytes is a File with ready content.
func Bytes(name string, b []byte) File {
	return File{Name: name, Write: func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}}
}

// entry is what a manifest knows of one file.
type entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// manifest is the content of manifest.json. It holds no wall-clock: the same
// run yields the same bytes.
type manifest struct {
	Format string `json:"format"`
	Point  *Point `json:"point,omitempty"`       // snapshots only
	Seq    int64  `json:"sequence,omitempty"`    // checkpoints of earlier versions only: order of saving
	Stats  int64  `json:"stats_bytes,omitempty"` // length of stats.jsonl at this moment
	// StatsSHA256 is of these bytes; snapshots of earlier versions lack it.
	StatsSHA256 string  `json:"stats_sha256,omitempty"`
	Files       []entry `json:"files"`
	// Meta is the caller's, such as the optimizer's step count.
	Meta json.RawMessage `json:"meta,omitempty"`
	// SHA256 is of this manifest as compact JSON without this field.
	SHA256 string `json:"manifest_sha256,omitempty"`
}

func (m manifest) digest() (string, error) {
	m.SHA256 = ""
	b, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func (m *manifest) write(folder string) (err error) {
	if m.SHA256, err = m.digest(); err != nil {
		return fmt.Errorf("%s: %w", folder, err)
	}
	return writeJSON(filepath.Join(folder, manifestName), m)
}

// digester counts and hashes what passes through it.
type digester struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (d *digester) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.h.Write(p[:n])
	d.n += int64(n)
	return n, err
}

// put writes f as folder/name, synced and renamed into place.
func put(folder, name string, f File) (entry, error) {
	e := entry{Name: name}
	path := filepath.Join(folder, filepath.FromSlash(name))
	if f.WritePath != nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return e, err
		}
		if err := f.WritePath(path); err != nil {
			return e, err
		}
		if err := e.measure(path); err != nil {
			return e, err
		}
		return e, syncFolder(filepath.Dir(path)) // its name, before a manifest's
	}
	err := atomicfile.Write(path, func(w io.Writer) error {
		d := &digester{w: w, h: sha256.New()}
		if err := f.Write(d); err != nil {
			return err
		}
		e.Size, e.SHA256 = d.n, hex.EncodeToString(d.h.Sum(nil))
		return nil
	})
	return e, err
}

// measure syncs the file at path and takes its size and digest.
func (e *entry) measure(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	h := sha256.New()
	if e.Size, err = io.Copy(h, f); err != nil {
		return fmt.Errorf("read back %s: %w", path, err)
	}
	e.SHA256 = hex.EncodeToString(h.Sum(nil))
	return nil
}

// Damaged says that files do not match their manifest, or that the manifest is
// missing (the folder was never finished) or unreadable.
type Damaged struct {
	Path string // the folder
	Why  string // names the file
}

func (e *Damaged) Error() string { return e.Path + ": " + e.Why }

const neverFinished = "no " + manifestName + ": it was never finished"

// readManifest reads a folder's manifest. A missing one and one with other bytes than were written are *Damaged; any other
// error is of reading, which may succeed the next time, and says nothing about the files.
func readManifest(folder string) (*manifest, error) {
	m := &manifest{}
	raw, err := os.ReadFile(filepath.Join(folder, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Damaged{Path: folder, Why: neverFinished}
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, &Damaged{Path: folder, Why: fmt.Sprintf("%s: %v", manifestName, err)}
	}
	if m.Format != format {
		return nil, &Damaged{Path: folder, Why: fmt.Sprintf("%s says format %q, this program knows %q", manifestName, m.Format, format)}
	}
	if sum, err := m.digest(); err != nil || sum != m.SHA256 {
		return nil, &Damaged{Path: folder, Why: manifestName + " does not match its own SHA-256"}
	}
	for _, e := range m.Files {
		if !filepath.IsLocal(filepath.FromSlash(e.Name)) {
			return nil, &Damaged{Path: folder, Why: fmt.Sprintf("%s lists %q, which lies outside", manifestName, e.Name)}
		}
	}
	return m, nil
}

// collecting fills a snapshot's folder, of which put writes this process's files, and returns all that it holds then.
type collecting func(folder string, put func() ([]entry, error)) ([]entry, error)

// save fills a new folder: the files first, the manifest last. A folder of
// that name that exists is replaced. After an error nothing is left of it.
// collect adds what other processes write; nil = nothing.
func (d *Dir) save(folder string, m *manifest, meta any, files []File, collect collecting) (err error) {
	m.Format = format
	if meta != nil {
		if m.Meta, err = json.Marshal(meta); err != nil {
			return fmt.Errorf("%s: metadata: %w", folder, err)
		}
	}
	if err := checkFiles(folder, files); err != nil {
		return err
	}
	if err := d.remove(folder); err != nil {
		return err
	}
	defer func() {
		if gone := d.inPlace(); gone != nil { // in the middle of it
			err = gone
		}
		if err != nil {
			os.RemoveAll(folder) // gives the space back; the manifest is not there yet
			d.removeGhost(folder)
		}
	}()
	if err := d.before("mkdir " + folder); err != nil {
		return err
	}
	if err := atomicfile.MakeDir(folder); err != nil {
		return fmt.Errorf("create snapshot folder: %w", err)
	}
	put := func() ([]entry, error) { return d.putAll(folder, files) }
	if collect == nil {
		m.Files, err = put()
	} else {
		m.Files, err = collect(folder, put)
	}
	if err != nil {
		return err
	}
	if err := d.before("write " + manifestName); err != nil {
		return err
	}
	return m.write(folder)
}

// checkFiles reports files that cannot be saved in one folder.
func checkFiles(folder string, files []File) error {
	seen := map[string]bool{manifestName: true}
	for _, f := range files {
		if !validName.MatchString(f.Name) || seen[f.Name] {
			return fmt.Errorf("%s: bad or repeated file name %q", folder, f.Name)
		}
		if (f.Write == nil) == (f.WritePath == nil) {
			return fmt.Errorf("%s: file %s needs either Write or WritePath", folder, f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// putAll writes files into a folder.
func (d *Dir) putAll(folder string, files []File) (out []entry, err error) {
	for _, f := range files {
		if err := d.before("write " + f.Name); err != nil {
			return nil, err
		}
		e, err := put(folder, f.Name, f)
		if err != nil {
			return nil, err
		}
		if err := d.inPlace(); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// remove deletes a snapshot folder, its manifest first, so that a half-deleted
// one is incomplete and never loaded.
func (d *Dir) remove(folder string) error {
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := d.before("remove manifest of " + folder); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(folder, manifestName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	if err := syncFolder(folder); err != nil {
		return err
	}
	if err := d.before("remove " + folder); err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	return nil
}

func syncFolder(path string) error {
	if err := atomicfile.SyncDir(path); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

func checkNames(names ...string) error {
	for _, n := range names {
		if !validName.MatchString(n) {
			return fmt.Errorf("bad name %q for a folder of the run: use letters, digits, '.', '_' and '-'", n)
		}
	}
	return nil
}

// strangers lists files below folder that no manifest entry names.
func (m *manifest) strangers(folder string) []string {
	var out []string
	filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		rel, _ := filepath.Rel(folder, path)
		rel = filepath.ToSlash(rel)
		known := rel == manifestName || slices.ContainsFunc(m.Files, func(e entry) bool { return e.Name == rel })
		if !known && !isTemp(rel[strings.LastIndexByte(rel, '/')+1:]) {
			out = append(out, rel)
		}
		return nil
	})
	return out
}
