// Package data turns captioned images into training samples: it builds the mini
// data set, opens captioned parquet files and folders, and gives a reproducible
// order of rows and captions that depends on the seed and the sample count
// alone.
//
// A source is either a parquet file with an image column (encoded PNG, JPEG or
// WebP) and a caption column, found by name, or a folder of images with a .txt
// file beside each, or of such parquet files. Optional columns: key, kind, coarse, concept, style, split,
// weight.
package data

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"fewstep/data/images"
)

// Row describes one image of a Set.
type Row struct {
	Key     string  // unique name, or "row<number>"
	Caption string  // fine caption, never empty
	Kind    string  // kind of thing, without details; may be empty
	Coarse  string  // group caption shared by many images; may be empty
	Concept string  // what is shown, without the style; may be empty
	Style   string  // may be empty
	Split   string  // "train", "eval", or empty
	Weight  float32 // expected draws per epoch; 1 where the source says nothing
}

// Options says how a source is opened. The zero value reads everything and
// tolerates no undecodable image.
type Options struct {
	Split     string                // keep only rows of this split; "" = all
	MaxBad    int                   // undecodable images that are left out before Open fails
	CacheSize int                   // keep decoded images of this side in memory (3·side² bytes each); 0 = decode on each call
	Seen      *Seen                 // what an earlier Open found out; taken if it holds still, and neither Split nor CacheSize is set
	Checked   func(done, total int) // told of images that were decoded, by several goroutines; may be nil
}

// file is an encoded image: what a parquet file holds of it, or where it lies in a folder, which need not fit the memory.
type file struct {
	content []byte // nil = it is a file of its own
	path    string // of the image, or of the parquet file
}

func (f file) read() ([]byte, error) {
	if f.content != nil {
		return f.content, nil
	}
	return os.ReadFile(f.path)
}

// BadImage names an image that could not be decoded and was left out.
type BadImage struct {
	Key string
	Err error
	row int // of the source, or of its split
}

// Set is an opened source. It is safe for concurrent use.
type Set struct {
	path      string
	state     string // of the source, where all of it is in the set
	digest    string // if it is known
	rows      []Row
	files     []file
	cached    [][]uint8 // [side, side, 3] each, where CacheSize asked for it
	cacheSize int
	bad       []BadImage
}

// Open reads a captioned parquet file or folder. Every image is decoded once: an
// undecodable one is left out and named in Bad, or fails Open where there are
// more than MaxBad. A row with an empty caption, a negative weight, a missing
// column or a damaged file is an error that names it.
func Open(path string, opt Options) (*Set, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	var rows []Row
	var files []file
	if info.IsDir() {
		rows, files, err = readFolder(path)
	} else {
		rows, files, err = readParquet(path)
	}
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("data: %s: no images", path)
	}
	for i, r := range rows {
		if strings.TrimSpace(r.Caption) == "" {
			return nil, fmt.Errorf("data: %s: row %d (%s): empty caption; give it one or remove the row", path, i, r.Key)
		}
		if w := float64(r.Weight); !(w >= 0) || math.IsInf(w, 0) {
			return nil, fmt.Errorf("data: %s: row %d (%s): weight %g; want a finite number of at least 0", path, i, r.Key, w)
		}
	}
	if opt.Split != "" {
		kept := ofSplit(rows, opt.Split)
		if len(kept) == 0 {
			return nil, noSplit(path, len(rows), opt.Split)
		}
		for n, i := range kept {
			rows[n], files[n] = rows[i], files[i]
		}
		rows, files = rows[:len(kept):len(kept)], files[:len(kept):len(kept)]
	}
	s := &Set{path: path, cacheSize: opt.CacheSize}
	if opt.Split == "" {
		if s.state, err = state(path, rows, files); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
	}
	if err := s.decodeAll(rows, files, opt); err != nil {
		return nil, err
	}
	return s, nil
}

// decodeAll decodes every image on all cores, unless that was done before, and keeps the rows that decode. A file that
// cannot be read is an error.
func (s *Set) decodeAll(rows []Row, files []file, opt Options) error {
	failed, unread := make([]error, len(rows)), make([]error, len(rows))
	decoded := make([][]uint8, len(rows))
	var wait sync.WaitGroup
	var done atomic.Int64
	workers := runtime.GOMAXPROCS(0)
	if seen := opt.Seen; opt.CacheSize == 0 && seen.holds(s.state, len(rows)) {
		workers, s.digest = 0, seen.Digest
		for _, b := range seen.Bad {
			failed[b.Row] = errors.New(b.Why)
		}
	}
	for w := range workers {
		wait.Go(func() {
			for i := w; i < len(rows); i += workers {
				content, err := files[i].read()
				if err != nil {
					unread[i] = err
					continue
				}
				failed[i] = images.With(content, func(m images.RGB) error {
					if opt.CacheSize > 0 {
						decoded[i] = square(m, opt.CacheSize).Pix
					}
					return nil
				})
				if opt.Checked != nil {
					opt.Checked(int(done.Add(1)), len(rows))
				}
			}
		})
	}
	wait.Wait()
	if i := slices.IndexFunc(unread, func(err error) bool { return err != nil }); i >= 0 {
		return fmt.Errorf("data: %w", unread[i])
	}
	for i, r := range rows {
		if failed[i] != nil {
			s.bad = append(s.bad, BadImage{r.Key, failed[i], i})
			continue
		}
		s.rows = append(s.rows, r)
		s.files = append(s.files, files[i])
		if opt.CacheSize > 0 {
			s.cached = append(s.cached, decoded[i])
		}
	}
	if len(s.bad) > opt.MaxBad {
		return fmt.Errorf("data: %s: %d undecodable images, %d allowed; first: %s: %w; remove them or allow more",
			s.path, len(s.bad), opt.MaxBad, s.bad[0].Key, s.bad[0].Err)
	}
	if len(s.rows) == 0 {
		return fmt.Errorf("data: %s: no image can be decoded", s.path)
	}
	return nil
}

// ofSplit lists the rows of a split.
func ofSplit(rows []Row, split string) (kept []int) {
	for i, r := range rows {
		if r.Split == split {
			kept = append(kept, i)
		}
	}
	return kept
}

func noSplit(path string, rows int, split string) error {
	return fmt.Errorf("data: %s: none of its %d rows is of split %q", path, rows, split)
}

// Only returns the rows of a split as a set of their own, which shares the images.
func (s *Set) Only(split string) (*Set, error) {
	kept := ofSplit(s.rows, split)
	if len(kept) == 0 {
		return nil, noSplit(s.path, len(s.rows), split)
	}
	out := &Set{path: s.path, cacheSize: s.cacheSize}
	for _, i := range kept {
		out.rows, out.files = append(out.rows, s.rows[i]), append(out.files, s.files[i])
		if s.cached != nil {
			out.cached = append(out.cached, s.cached[i])
		}
	}
	return out, nil
}

// Len returns the number of rows.
func (s *Set) Len() int { return len(s.rows) }

// Row returns row i; it panics outside [0, Len).
func (s *Set) Row(i int) Row { return s.rows[i] }

// Bad lists the images that were left out because they cannot be decoded.
func (s *Set) Bad() []BadImage { return s.bad }

// Captions returns every caption that Order can choose (fine, kind and coarse),
// each once, in text order: what a cache of text encodings must hold.
func (s *Set) Captions() []string {
	seen := map[string]bool{}
	for _, r := range s.rows {
		seen[r.Caption], seen[r.Kind], seen[r.Coarse] = true, true, true
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

// Image returns image i as [size, size, 3] (height, width, RGB) in [−1, 1]: as
// images.Decode shows it, the largest centred square, resized with PIL's
// antialiased bicubic filter where its side differs from size.
func (s *Set) Image(i, size int) ([]float32, error) {
	if i < 0 || i >= len(s.rows) {
		return nil, fmt.Errorf("data: row %d of %d", i, len(s.rows))
	}
	if size < 1 {
		return nil, fmt.Errorf("data: image size %d; want at least 1", size)
	}
	if size == s.cacheSize {
		return scalePixels(s.cached[i]), nil
	}
	content, err := s.files[i].read()
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	var pixels []float32
	err = images.With(content, func(m images.RGB) error {
		pixels = scalePixels(square(m, size).Pix)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("data: %s: %w", s.rows[i].Key, err)
	}
	return pixels, nil
}

// readFolder finds every PNG, JPEG and WebP file below dir in lexical order with
// the caption in the .txt file beside it. The key is the relative path without
// its extension. Of a parquet file below dir it reads every row; their keys begin
// with the file's.
func readFolder(dir string) (rows []Row, files []file, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		ext := filepath.Ext(path)
		stem := strings.TrimSuffix(path, ext)
		switch strings.ToLower(ext) {
		case ".png", ".jpg", ".jpeg", ".webp":
		case ".parquet":
			shard, images, err := readParquet(path)
			if err != nil {
				return err
			}
			key, err := filepath.Rel(dir, stem)
			if err != nil {
				return err
			}
			for i := range shard {
				shard[i].Key = filepath.ToSlash(key) + "/" + shard[i].Key
			}
			rows, files = append(rows, shard...), append(files, images...)
			return nil
		default:
			return nil
		}
		caption, err := os.ReadFile(stem + ".txt")
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: no caption; write one to %s.txt", path, filepath.Base(stem))
		} else if err != nil {
			return err
		}
		key, err := filepath.Rel(dir, stem)
		if err != nil {
			return err
		}
		rows = append(rows, Row{Key: filepath.ToSlash(key), Caption: strings.TrimSpace(string(caption)), Weight: 1})
		files = append(files, file{path: path})
		return nil
	})
	return rows, files, err
}

// Encoded returns the file of image i as the source holds it: PNG, JPEG or WebP. It panics outside [0, Len).
func (s *Set) Encoded(i int) ([]byte, error) { return s.files[i].read() }
