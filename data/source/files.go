package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"fewstep/internal/atomicfile"

	"golang.org/x/sync/errgroup"
)

type shardKind int

const (
	imageFiles shardKind = iota // images that are files of their own
	tarShard
	parquetShard
	mdsKind
)

// shard is a part of a source that has an index of its own.
type shard struct {
	kind   shardKind
	store  store
	object object
	join   *object // the parquet file beside a tar
	mds    mdsShard
	prefix string // of its keys; "" = none
	rows   *segment
	first  int // number of its first row in the source
}

// Files is a source of files: see [Open].
type Files struct {
	shards   []*shard
	rows     int        // of the shards
	keep     []int64    // of the shards' rows; nil = all
	chosen   []int64    // the numbers of the kept rows in the source that they were selected from
	sizes    [][2]int32 // of the kept rows' images, where a selection knows them
	skipped  tally
	identity hash.Hash // of names, sizes and times
	contents hash.Hash // the same without times and places: see Fingerprint
	mu       sync.Mutex
	parquets map[store]*parquetImages
	unpacked map[string][]byte // the last compressed MDS shard
}

// largeShard is the size from which a shard's index is kept on disk; below, making it is quick.
var largeShard int64 = 64 << 20

// addShards indexes shards of a store and adds their rows in the order of the shards.
func (f *Files) addShards(ctx context.Context, st store, shards []*shard, opt Options) error {
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(8, workers(st))) // each holds its shard's texts
	for _, s := range shards {
		s.store = st
		group.Go(func() error {
			err := s.open(ctx, opt)
			if opt.Progress != nil {
				opt.Progress(int(done.Add(1)), len(shards))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, s := range shards {
		f.add(s)
	}
	return nil
}

func (f *Files) add(s *shard) {
	s.first = f.rows
	f.rows += s.rows.head.Rows
	fmt.Fprintf(f.identity, "%q %d %q\n", s.store.address(s.object.name), s.object.size, s.object.stamp)
	stamp := ""
	if s.store.remote() {
		stamp = s.object.stamp
	}
	fmt.Fprintf(f.contents, "%q %d %q %d %s\n", path.Base(s.object.name), s.object.size, stamp, s.rows.head.Rows, s.rows.head.Heap)
	if s.join != nil {
		fmt.Fprintf(f.identity, "%q %d %q\n", s.store.address(s.join.name), s.join.size, s.join.stamp)
	}
	for _, skip := range s.rows.head.Skipped {
		f.skipped.addN(skip.Reason, skip.Example, skip.Count)
	}
	f.shards = append(f.shards, s)
}

// open finds or makes the shard's index.
func (s *shard) open(ctx context.Context, opt Options) error {
	if !s.store.remote() && s.object.size < largeShard {
		b, err := s.build(ctx, opt)
		if err != nil {
			return err
		}
		s.rows, err = parseSegment(b)
		return err
	}
	file, err := s.indexFile(opt)
	if err != nil {
		return err
	}
	if s.load(file) == nil {
		return nil
	}
	b, err := s.build(ctx, opt)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err == nil {
		err = atomicfile.Write(file, func(w io.Writer) error { _, err := w.Write(b); return err })
		if err == nil {
			return s.load(file)
		}
	}
	s.rows, err = parseSegment(b) // a cache that cannot be written costs memory and time only
	return err
}

func (s *shard) load(file string) error {
	b, unmap, err := mapFile(file)
	if err != nil {
		return err
	}
	rows, err := parseSegment(b)
	if err != nil {
		return errors.Join(err, unmap())
	}
	rows.close = unmap
	s.rows = rows
	return nil
}

// indexFile names the index by all that it depends on.
func (s *shard) indexFile(opt Options) (string, error) {
	dir := opt.Index
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("there is no folder for indexes: %w", err)
		}
		dir = filepath.Join(cache, "fewstep", "rows")
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q %d %q %v\n", segmentMagic, s.store.address(s.object.name), s.object.size, s.object.stamp, opt.Uncaptioned)
	if s.join != nil {
		fmt.Fprintf(h, "%q %d %q\n", s.join.name, s.join.size, s.join.stamp)
	}
	if s.kind == mdsKind {
		if err := json.NewEncoder(h).Encode(s.mds); err != nil {
			return "", err
		}
	}
	name := hex.EncodeToString(h.Sum(nil)[:16])
	return filepath.Join(dir, name[:2], name+".rows"), nil
}

func (s *shard) build(ctx context.Context, opt Options) ([]byte, error) {
	var b *builder
	var err error
	switch s.kind {
	case tarShard:
		var join *joined
		if s.join != nil {
			if join, err = readJoined(ctx, s.store, *s.join); err != nil {
				return nil, err
			}
		}
		b, err = indexTar(ctx, s.store, s.object, join, opt)
	case parquetShard:
		b, err = indexParquet(ctx, s.store, s.object, opt)
	case mdsKind:
		b, err = indexMDS(ctx, s.store, s.object, s.mds, opt)
	}
	if err != nil {
		return nil, err
	}
	return b.bytes()
}

// Len returns the number of rows.
func (f *Files) Len() int {
	if f.keep != nil {
		return len(f.keep)
	}
	return f.rows
}

// at finds the shard of a row.
func (f *Files) at(i int) (*shard, int) {
	if i < 0 || i >= f.Len() {
		panic(fmt.Sprintf("row %d of %d", i, f.Len()))
	}
	if f.keep != nil {
		i = int(f.keep[i])
	}
	n := sort.Search(len(f.shards), func(n int) bool { return f.shards[n].first > i }) - 1
	return f.shards[n], i - f.shards[n].first
}

// Row returns row i; it panics outside [0, Len).
func (f *Files) Row(i int) Row {
	s, k := f.at(i)
	e, _ := s.rows.entry(k)
	if s.prefix != "" {
		e.Key = s.prefix + "/" + e.Key
	}
	return e.Row
}

// Columns returns what else the source says of row i: numbers, truths and short texts by column.
func (f *Files) Columns(i int) map[string]any {
	s, k := f.at(i)
	_, raw := s.rows.entry(k)
	var out map[string]any
	if raw != "" {
		_ = json.Unmarshal([]byte(raw), &out) // written by this package
	}
	return out
}

// Shard returns the address of the file that holds row i.
func (f *Files) Shard(i int) string {
	s, k := f.at(i)
	e, _ := s.rows.entry(k)
	return s.store.address(s.holder(e.place))
}

// Identity stands for image i by where it lies and when that changed, without reading it: what is made of an image is kept
// under it.
func (f *Files) Identity(i int) (string, error) {
	s, k := f.at(i)
	e, columns := s.rows.entry(k)
	o := s.object
	if name := s.holder(e.place); name != o.name {
		var err error
		if o, err = s.store.stat(context.Background(), name); err != nil {
			return "", err
		}
	}
	id := fmt.Sprintf("%s %d %s %d %d", path.Base(o.name), o.size, o.stamp, e.Offset, e.Size)
	if turn := turnOf(columns); turn > 0 {
		id += fmt.Sprintf(" turned %d", turn)
	}
	return id, nil
}

// holder names the object that holds an image.
func (s *shard) holder(at place) string {
	switch {
	case at.Name == "":
		return s.object.name
	case s.kind == imageFiles:
		return at.Name
	}
	return path.Join(path.Dir(s.object.name), at.Name)
}

// Encoded returns the file of image i as the source holds it, marked where a column says its orientation: see
// images.Oriented.
func (f *Files) Encoded(i int) ([]byte, error) {
	s, k := f.at(i)
	e, columns := s.rows.entry(k)
	content, err := f.read(s, e.place)
	return turned(content, columns), err
}

// read reads an image's file.
func (f *Files) read(s *shard, e place) ([]byte, error) {
	ctx := context.Background()
	switch {
	case e.Size < 0:
		return f.parquet(s.store).read(ctx, s.object, int(-1-e.Size), e.Offset)
	case s.kind == mdsKind && s.mds.Zip != nil:
		return f.fromPacked(ctx, s, e)
	}
	b, name := make([]byte, e.Size), s.holder(e)
	if err := s.store.readAt(ctx, name, b, e.Offset); err != nil {
		return nil, fmt.Errorf("%s: %w", s.store.address(name), err)
	}
	return b, nil
}

func (f *Files) parquet(st store) *parquetImages {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parquets[st] == nil {
		f.parquets[st] = &parquetImages{store: st}
	}
	return f.parquets[st]
}

// fromPacked reads an image of a compressed MDS shard, which is kept until another is wanted.
func (f *Files) fromPacked(ctx context.Context, s *shard, at place) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := s.store.address(s.object.name)
	content, ok := f.unpacked[name]
	if !ok {
		var err error
		if content, err = mdsContent(ctx, s.store, s.object, s.mds); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.unpacked = map[string][]byte{name: content}
	}
	if at.Offset+at.Size > int64(len(content)) {
		return nil, fmt.Errorf("%s: shorter than it was; make or fetch it again", name)
	}
	return content[at.Offset : at.Offset+at.Size], nil
}

// Splits returns the rows of each split that is named.
func (f *Files) Splits() map[string]int {
	out := map[string]int{}
	if f.keep != nil {
		for i := range f.keep {
			if split := f.Row(i).Split; split != "" {
				out[split]++
			}
		}
		return out
	}
	for _, s := range f.shards {
		for split, n := range s.rows.head.Splits {
			out[split] += n
		}
	}
	return out
}

// Weighted says whether some row's weight is not 1.
func (f *Files) Weighted() bool {
	for _, s := range f.shards {
		if s.rows.head.Weighted {
			return true
		}
	}
	return false
}

// Head returns the beginning of image i's file, of n bytes at most, where the source can give it without the rest; else all.
func (f *Files) Head(i, n int) ([]byte, error) {
	s, k := f.at(i)
	e, columns := s.rows.entry(k)
	if e.Size < int64(n) || s.kind == mdsKind && s.mds.Zip != nil {
		return f.Encoded(i)
	}
	b, name := make([]byte, n), s.holder(e.place)
	if err := s.store.readAt(context.Background(), name, b, e.Offset); err != nil {
		return nil, fmt.Errorf("%s: %w", s.store.address(name), err)
	}
	return turned(b, columns), nil
}

// Bytes is the size of all images, as far as the source says it.
func (f *Files) Bytes() (n int64) {
	for _, s := range f.shards {
		n += s.rows.head.Bytes
	}
	return n
}

// Flaws lists the rows that are left out because their texts cannot be used.
func (f *Files) Flaws() (out []Flaw) {
	for _, s := range f.shards {
		for _, flaw := range s.rows.head.Flaws {
			if s.prefix != "" && s.kind != imageFiles {
				flaw.Key = s.prefix + "/" + flaw.Key
			}
			out = append(out, flaw)
		}
	}
	return out
}

// Skipped counts the entries that are no rows, by reason.
func (f *Files) Skipped() []Skipped { return f.skipped.list() }

// Remote says whether some of the source lies beyond this machine.
func (f *Files) Remote() bool {
	for _, s := range f.shards {
		if s.store.remote() {
			return true
		}
	}
	return false
}

// Shards returns the addresses of the source's shards, with the number of rows of each.
func (f *Files) Shards() (addresses []string, rows []int) {
	for _, s := range f.shards {
		addresses, rows = append(addresses, s.store.address(s.object.name)), append(rows, s.rows.head.Rows)
	}
	return addresses, rows
}

// State changes whenever the size, time or ETag of one of the source's files does.
func (f *Files) State() string { return hex.EncodeToString(f.identity.Sum(nil)) }

// Fingerprint stands for the source's content as far as it is known without reading images: texts, sizes and places in the
// shards, and the ETags of remote ones. Copies of a source have the same.
func (f *Files) Fingerprint() string { return hex.EncodeToString(f.contents.Sum(nil)) }

// Close unmaps the indexes.
func (f *Files) Close() error {
	var errs []error
	for _, s := range f.shards {
		errs = append(errs, s.rows.close())
	}
	f.shards, f.rows, f.keep = nil, 0, nil
	return errors.Join(errs...)
}

// why says what was left out, for the error of a source without rows.
func (f *Files) why() string {
	var out []string
	for _, s := range f.Skipped() {
		out = append(out, s.String())
	}
	if len(out) == 0 {
		return ""
	}
	return "; left out: " + strings.Join(out[:min(5, len(out))], ", ")
}
