// Package data turns captioned images into training samples: it builds the mini
// data set, opens captioned sources (see package source: parquet, tars, MDS,
// zip files, folders; on disk or in S3) and specs of scenes, which are drawn
// (package scenes), and gives a reproducible order of rows
// and captions that depends on the seed and the sample count alone.
package data

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"fewstep/data/bucket"
	"fewstep/data/feed"
	"fewstep/data/images"
	"fewstep/data/source"
)

// Row describes one image of a Set.
type Row = source.Row

// Options says how a source is opened. The zero value reads everything and
// tolerates no row that cannot be used.
type Options struct {
	Split       string                // keep only rows of this split; "" = all
	MaxBad      int                   // rows without a usable caption or image that are left out before Open fails
	CacheSize   int                   // keep decoded images of this side in memory (3·side² bytes each); 0 = decode on each call
	Seen        *Seen                 // what an earlier Open found out; taken if it holds still, and neither Split nor CacheSize is set
	Indexing    func(done, total int) // told of shards whose rows were listed, by several goroutines; may be nil
	Checked     func(done, total int) // told of images that were decoded, by several goroutines; may be nil
	Unchecked   bool                  // do not decode every image: an undecodable one is found when it is wanted
	MostChecked int                   // a source of more rows is Unchecked; 0 = none is
	Uncaptioned bool                  // rows need no caption
}

// BadImage names a row that was left out because its image cannot be decoded or its caption cannot be used.
type BadImage struct {
	Key string
	Err error
	row int // of the source; −1 = the source does not number it
}

func (b *BadImage) Error() string { return b.Key + ": " + b.Err.Error() }

func (b *BadImage) Unwrap() error { return b.Err }

// Set is an opened source. It is safe for concurrent use.
type Set struct {
	path      string
	source    source.Source
	state     string    // of the source, where all of it is in the set
	digest    string    // if it is known
	keep      []int32   // rows of the source; nil = all
	cached    [][]uint8 // [side, side, 3] each, where CacheSize asked for it
	cacheSize int
	bad       []BadImage
	skipped   []source.Skipped
	encoded   string // folder of encodings that belong to the set; "" = none
}

// Names of the files in a folder of encodings that data.Open looks for: the rows that were encoded, as a selection, and what
// they were encoded with. See package encoded.
const (
	EncodedRows     = "rows.parquet"
	EncodedManifest = "encoded.json"
)

// Open reads a captioned source: a spec of scenes (*.scenes.json), or see source.Open for its address. Every image is
// decoded once, unless Unchecked: an undecodable one, and a row whose caption is
// empty or no text, is left out and named in Bad, or fails Open where there are
// more than MaxBad. A missing column or a damaged file is an error that names it.
//
// A folder that 'data encode' wrote is a source too: its rows, with their encodings. The context ends reading and decoding
// early, and with them Open.
func Open(ctx context.Context, path string, opt Options) (*Set, error) {
	if _, err := os.Stat(filepath.Join(path, EncodedManifest)); err == nil {
		opt.Unchecked = true // they were decoded when they were encoded
		s, err := Open(ctx, filepath.Join(path, EncodedRows), opt)
		if err != nil {
			return nil, err
		}
		s.encoded = path
		return s, nil
	}
	var src source.Source
	var err error
	if isScenes(path) {
		src, err = openScenes(path)
	} else {
		src, err = source.Open(ctx, path, source.Options{Uncaptioned: opt.Uncaptioned, Progress: opt.Indexing})
	}
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	s, err := New(ctx, path, src, opt)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return s, nil
}

// New makes a set of a source; name stands for it in messages.
func New(ctx context.Context, name string, src source.Source, opt Options) (*Set, error) {
	s := &Set{path: name, source: src, cacheSize: opt.CacheSize}
	if files, ok := src.(*source.Files); ok {
		for _, flaw := range files.Flaws() {
			s.bad = append(s.bad, BadImage{flaw.Key, errors.New(flaw.Why), -1})
		}
		s.skipped = files.Skipped()
	}
	if opt.Split != "" {
		if s.keep = s.ofSplit(opt.Split); len(s.keep) == 0 {
			return nil, noSplit(name, src.Len(), opt.Split)
		}
	} else {
		s.state = s.sourceState()
	}
	if err := s.check(ctx, opt); err != nil {
		return nil, err
	}
	return s, nil
}

// check decodes every image on all cores, unless that was done before, and keeps the rows that decode. A file that
// cannot be read is an error.
func (s *Set) check(ctx context.Context, opt Options) error {
	n := s.Len()
	var mu sync.Mutex
	var failed []BadImage
	var unread error
	var done atomic.Int64
	var unreadable atomic.Bool
	look := n
	if opt.CacheSize > 0 {
		s.cached = make([][]uint8, n)
	}
	drawn, draws := s.source.(*sceneSource)
	if (opt.Unchecked || opt.MostChecked > 0 && n > opt.MostChecked || draws) && opt.CacheSize == 0 {
		look = 0
	}
	if seen := opt.Seen; opt.CacheSize == 0 && seen.holds(s.state, s.source.Len()) {
		look, s.digest = 0, seen.Digest
		for _, b := range seen.Bad {
			failed = append(failed, BadImage{s.source.Row(b.Row).Key, errors.New(b.Why), b.Row})
		}
	}
	feed.Each(look, func(i int) {
		if ctx.Err() != nil {
			return
		}
		if draws {
			s.cached[i] = square(drawn.draw(s.number(i)), opt.CacheSize).Pix
			return
		}
		if unreadable.Load() { // the source cannot be read
			return
		}
		content, err := s.Encoded(i)
		if err != nil && !gone(err) {
			unreadable.Store(true)
			mu.Lock()
			unread = errors.Join(unread, err)
			mu.Unlock()
			return
		}
		if err == nil {
			err = images.With(content, func(m images.RGB) error {
				if opt.CacheSize > 0 {
					s.cached[i] = square(m, opt.CacheSize).Pix
				}
				return nil
			})
		}
		if err != nil {
			mu.Lock()
			failed = append(failed, BadImage{s.Row(i).Key, err, s.number(i)})
			mu.Unlock()
		}
		if opt.Checked != nil {
			opt.Checked(int(done.Add(1)), n)
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if unread != nil {
		return fmt.Errorf("data: %w", unread)
	}
	slices.SortFunc(failed, func(a, b BadImage) int { return a.row - b.row })
	s.leaveOut(failed)
	s.bad = append(s.bad, failed...)
	if len(s.bad) > opt.MaxBad {
		return fmt.Errorf("data: %s: %d of %d rows cannot be used, %d allowed; first: %s: %w; remove them or allow more (data.max_bad)",
			s.path, len(s.bad), s.Len()+len(s.bad), opt.MaxBad, s.bad[0].Key, s.bad[0].Err)
	}
	if s.Len() == 0 {
		return fmt.Errorf("data: %s: no image can be decoded", s.path)
	}
	return nil
}

// leaveOut takes rows out of the set.
func (s *Set) leaveOut(bad []BadImage) {
	if len(bad) == 0 {
		return
	}
	out := map[int]bool{}
	for _, b := range bad {
		out[b.row] = true
	}
	keep, cached := make([]int32, 0, s.Len()), [][]uint8(nil)
	for i := range s.Len() {
		if out[s.number(i)] {
			continue
		}
		keep = append(keep, int32(s.number(i)))
		if s.cached != nil {
			cached = append(cached, s.cached[i])
		}
	}
	s.keep, s.cached = keep, cached
}

// Number is the source's number of row i.
func (s *Set) Number(i int) int { return s.number(i) }

func (s *Set) number(i int) int {
	if s.keep == nil {
		return i
	}
	return int(s.keep[i])
}

// ofSplit lists the source's rows of a split, among those of the set.
func (s *Set) ofSplit(split string) (kept []int32) {
	if files, ok := s.source.(*source.Files); ok && files.Splits()[split] == 0 {
		return nil
	}
	for i := range s.Len() {
		if s.Row(i).Split == split {
			kept = append(kept, int32(s.number(i)))
		}
	}
	return kept
}

func noSplit(path string, rows int, split string) error {
	return fmt.Errorf("data: %s: none of its %d rows is of split %q", path, rows, split)
}

// HasSplit says whether some row is of a split.
func (s *Set) HasSplit(split string) bool {
	if files, ok := s.source.(*source.Files); ok && files.Splits()[split] == 0 {
		return false
	}
	for i := range s.Len() {
		if s.Row(i).Split == split {
			return true
		}
	}
	return false
}

// Only returns the rows of a split as a set of their own, which shares the images.
func (s *Set) Only(split string) (*Set, error) {
	keep := s.ofSplit(split)
	if len(keep) == 0 {
		return nil, noSplit(s.path, s.Len(), split)
	}
	out := &Set{path: s.path, source: s.source, cacheSize: s.cacheSize, keep: keep, encoded: s.encoded}
	if s.cached != nil {
		for _, row := range keep {
			i := int(row)
			if s.keep != nil {
				i = sort.Search(len(s.keep), func(i int) bool { return s.keep[i] >= row })
			}
			out.cached = append(out.cached, s.cached[i])
		}
	}
	return out, nil
}

// Len returns the number of rows.
func (s *Set) Len() int {
	if s.keep != nil {
		return len(s.keep)
	}
	return s.source.Len()
}

// Row returns row i; it panics outside [0, Len).
func (s *Set) Row(i int) Row { return s.source.Row(s.number(i)) }

// Encoded returns the file of image i as the source holds it. It panics outside [0, Len).
func (s *Set) Encoded(i int) ([]byte, error) { return s.source.Encoded(s.number(i)) }

// Columns returns what else the source says of row i, by column; nil = nothing.
func (s *Set) Columns(i int) map[string]any {
	if files := s.Files(); files != nil {
		return files.Columns(s.number(i))
	}
	return nil
}

// EncodedFolder is the folder of the set's encodings; "" = it has none.
func (s *Set) EncodedFolder() string { return s.encoded }

// Chosen is the number of row i in the source that the set's rows were selected from.
func (s *Set) Chosen(i int) int {
	if files, ok := s.source.(*source.Files); ok {
		return files.Chosen(s.number(i))
	}
	return s.number(i)
}

// Readers is how many images should be read at a time: more than there are cores where they come over a network.
func (s *Set) Readers() int {
	if files := s.Files(); files != nil && files.Remote() {
		return max(runtime.GOMAXPROCS(0), 32)
	}
	return runtime.GOMAXPROCS(0)
}

// KnowsSizes says whether the sizes of images are known without looking at them.
func (s *Set) KnowsSizes() bool {
	files := s.Files()
	return files != nil && files.KnowsSizes()
}

// Files is the set's source where that is files, else nil.
func (s *Set) Files() *source.Files {
	files, _ := s.source.(*source.Files)
	return files
}

// Bad lists the rows that were left out because they cannot be used.
func (s *Set) Bad() []BadImage { return s.bad }

// Skipped counts the source's entries that are no rows, by reason.
func (s *Set) Skipped() []source.Skipped { return s.skipped }

// weighted says whether some row's weight is not 1.
func (s *Set) weighted() bool {
	if files, ok := s.source.(*source.Files); ok && !files.Weighted() {
		return false
	}
	for i := range s.Len() {
		if s.Row(i).Weight != 1 {
			return true
		}
	}
	return false
}

// Captions returns every caption that Order can choose (fine, kind and coarse),
// each once, in text order: what a cache of text encodings must hold.
func (s *Set) Captions() []string {
	seen := map[string]bool{}
	for i := range s.Len() {
		r := s.Row(i)
		seen[r.Caption], seen[r.Kind], seen[r.Coarse] = true, true, true
		for _, c := range r.Also {
			seen[c] = true
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

// Image returns image i as [size, size, 3] (height, width, RGB) in [−1, 1]: as
// images.Decode shows it, the largest centred square, resized with PIL's
// antialiased bicubic filter where its side differs from size.
func (s *Set) Image(i, size int) ([]float32, error) {
	if i < 0 || i >= s.Len() {
		return nil, fmt.Errorf("data: row %d of %d", i, s.Len())
	}
	if size < 1 {
		return nil, fmt.Errorf("data: image size %d; want at least 1", size)
	}
	if size == s.cacheSize {
		return scalePixels(s.cached[i]), nil
	}
	if d, ok := s.source.(*sceneSource); ok {
		return scalePixels(square(d.draw(s.number(i)), size).Pix), nil
	}
	pixels, _, err := s.Picture(i, bucket.Size{Width: size, Height: size})
	return pixels, err
}

// Close frees the source's index.
func (s *Set) Close() error { return s.source.Close() }

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
