package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// ErrNoImages is wrapped by the error of a source without a row.
var ErrNoImages = errors.New("no images")

// Open opens a source by its address: a parquet, tar or zip file, a folder, or several of them by a pattern with braces
// ({00000..00127}, {a,b}) and wildcards (*, ?, [0-9]); on disk, or in storage as s3://bucket/name.
func Open(ctx context.Context, address string, opt Options) (*Files, error) {
	f := &Files{skipped: tally{}, identity: sha256.New(), contents: sha256.New(), parquets: map[store]*parquetImages{}}
	if err := f.open(ctx, address, opt); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if f.Len() == 0 && len(f.Flaws()) == 0 {
		return nil, errors.Join(fmt.Errorf("%s: %w%s", address, ErrNoImages, f.why()), f.Close())
	}
	return f, nil
}

func (f *Files) open(ctx context.Context, address string, opt Options) error {
	if rest, ok := strings.CutPrefix(address, "s3://"); ok {
		bucket, name, _ := strings.Cut(rest, "/")
		st, err := openS3(ctx, bucket)
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
		return f.openIn(ctx, st, name, address, opt)
	}
	address = strings.TrimPrefix(address, "file://")
	if _, err := os.Stat(address); err == nil { // whatever its name looks like
		return f.openOne(ctx, disk{}, filepath.ToSlash(address), address, false, opt)
	}
	return f.openIn(ctx, disk{}, filepath.ToSlash(address), address, opt)
}

// openIn opens what a pattern names in a store.
func (f *Files) openIn(ctx context.Context, st store, pattern, address string, opt Options) error {
	var names []string
	for _, p := range braces(pattern) {
		if !strings.ContainsAny(p, "*?[") {
			names = append(names, p)
			continue
		}
		found, err := match(ctx, st, p)
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
		if len(found) == 0 {
			return fmt.Errorf("%s: nothing is of the pattern %s: %w", address, p, fs.ErrNotExist)
		}
		names = append(names, found...)
	}
	names = slices.Compact(names)
	known, err := f.known(ctx, st, names)
	if err != nil {
		return err
	}
	var shards []*shard
	flush := func() error {
		defer func() { shards = nil }()
		return f.addShards(ctx, st, shards, opt)
	}
	for i, name := range names {
		if known[i] != nil {
			shards = append(shards, known[i])
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := f.openOne(ctx, st, name, st.address(name), len(names) > 1, opt); err != nil {
			return err
		}
	}
	return flush()
}

// known describes the shards that several names stand for, many at a time: storage answers slowly. It is nil for names
// that do not say that they are shards.
func (f *Files) known(ctx context.Context, st store, names []string) ([]*shard, error) {
	out := make([]*shard, len(names))
	if len(names) == 1 {
		return out, nil
	}
	errs := make([]error, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers(st))
	for i, name := range names {
		kind, ok := map[string]shardKind{".tar": tarShard, ".parquet": parquetShard, ".pq": parquetShard}[strings.ToLower(path.Ext(name))]
		if !ok {
			continue
		}
		group.Go(func() error {
			o, folder, err := find(ctx, st, name)
			if err != nil || folder && st.remote() { // there, a folder is what is no object
				errs[i] = fmt.Errorf("%s: %w", st.address(name), cmp.Or(err, fs.ErrNotExist))
				return errs[i]
			} else if folder {
				return nil
			}
			out[i] = &shard{kind: kind, object: o, prefix: strings.TrimSuffix(path.Base(name), path.Ext(name))}
			if kind == tarShard {
				out[i].join, errs[i] = beside(ctx, st, name)
			}
			return errs[i]
		})
	}
	err := group.Wait()
	for _, first := range errs {
		if first != nil && !errors.Is(first, context.Canceled) {
			return nil, first
		}
	}
	return out, err
}

// beside is the parquet file beside a tar; nil = there is none, as far as one may know: storage that may not be listed denies
// what is not there.
func beside(ctx context.Context, st store, name string) (*object, error) {
	table := strings.TrimSuffix(name, path.Ext(name)) + ".parquet"
	o, err := st.stat(ctx, table)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && st.remote():
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", st.address(table), err)
	}
	return &o, nil
}

// openOne opens a file or a folder.
func (f *Files) openOne(ctx context.Context, st store, name, address string, several bool, opt Options) error {
	o, folder, err := find(ctx, st, name)
	if err != nil {
		return err
	}
	if folder {
		return f.openFolder(ctx, st, name, opt)
	}
	s := &shard{object: o}
	if several {
		s.prefix = strings.TrimSuffix(path.Base(name), path.Ext(name))
	}
	switch ext := strings.ToLower(path.Ext(name)); ext {
	case ".tar":
		s.kind = tarShard
		if s.join, err = beside(ctx, st, name); err != nil {
			return err
		}
	case ".zip":
		z, err := openZip(ctx, st, o)
		if err != nil {
			return err
		}
		return f.openFolder(ctx, z, "", opt)
	case ".json":
		if path.Base(name) == "index.json" {
			return f.openFolder(ctx, st, path.Dir(name), opt)
		}
		return fmt.Errorf("%s: not a data set; want a parquet, tar or zip file, a folder, or a pattern of them", address)
	case ".gz", ".tgz", ".zst":
		return fmt.Errorf("%s: a compressed tar cannot be read sample by sample; unpack it to .tar", address)
	default:
		head := make([]byte, min(o.size, 4))
		if err := st.readAt(ctx, name, head, 0); err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
		if ext != ".parquet" && ext != ".pq" && !bytes.Equal(head, []byte("PAR1")) {
			return fmt.Errorf("%s: not a readable parquet file: want a parquet, tar or zip file, a folder, or a pattern of them", address)
		}
		s.kind = parquetShard
		if pf, err := openParquet(ctx, st, o); err == nil {
			if of, ok := pf.Lookup(selectionSource); ok {
				return f.openSelection(ctx, pf, of, address, opt)
			}
		}
	}
	return f.addShards(ctx, st, []*shard{s}, opt)
}

// find says whether a name is an object or a folder.
func find(ctx context.Context, st store, name string) (o object, folder bool, err error) {
	if d, ok := st.(disk); ok {
		info, err := os.Stat(d.path(name))
		if err != nil {
			return o, false, err
		}
		return diskObject(name, info), info.IsDir(), nil
	}
	if name != "" && !strings.HasSuffix(name, "/") {
		o, err := st.stat(ctx, name)
		if err == nil {
			return o, false, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return o, false, fmt.Errorf("%s: %w", st.address(name), err)
		}
	}
	return object{name: name}, true, nil
}

// openFolder opens all that lies below a folder.
func (f *Files) openFolder(ctx context.Context, st store, dir string, opt Options) error {
	if d, ok := st.(disk); ok {
		root := hubSnapshot(d.path(dir))
		st, dir = disk{root}, "."
	} else if dir != "" && !strings.HasSuffix(dir, "/") {
		dir += "/"
	}
	listing, err := st.list(ctx, dir)
	if err != nil {
		return fmt.Errorf("%s: %w", st.address(dir), err)
	}
	if len(listing) == 0 && st.remote() {
		return fmt.Errorf("%s: there is neither an object nor a folder of this name: %w", st.address(dir), fs.ErrNotExist)
	}
	if dir != "." && dir != "" { // keys are relative to the folder
		st = below{st, dir}
		for i := range listing {
			listing[i].name = strings.TrimPrefix(listing[i].name, dir)
		}
	}
	s, err := scan(ctx, st, listing, opt)
	if err != nil {
		return err
	}
	if len(s.images) > 0 {
		b, err := s.indexImages(ctx, st, opt)
		if err != nil {
			return err
		}
		raw, err := b.bytes()
		if err != nil {
			return err
		}
		rows, err := parseSegment(raw)
		if err != nil {
			return err
		}
		fmt.Fprintf(f.identity, "%x\n", sha256.Sum256(raw))
		for _, o := range s.images {
			fmt.Fprintf(f.identity, "%q %d %q\n", o.name, o.size, o.stamp)
		}
		f.add(&shard{kind: imageFiles, store: st, rows: rows, object: object{name: ""}})
	}
	s.leftover()
	for reason, skip := range s.skipped {
		f.skipped.addN(reason, skip.Example, skip.Count)
	}
	return f.addShards(ctx, st, s.shards, opt)
}

// below is a folder of a store.
type below struct {
	store
	prefix string
}

func (b below) list(ctx context.Context, prefix string) ([]object, error) {
	out, err := b.store.list(ctx, b.prefix+prefix)
	for i := range out {
		out[i].name = strings.TrimPrefix(out[i].name, b.prefix)
	}
	return out, err
}

func (b below) stat(ctx context.Context, name string) (object, error) {
	o, err := b.store.stat(ctx, b.prefix+name)
	o.name = name
	return o, err
}

func (b below) readAt(ctx context.Context, name string, p []byte, offset int64) error {
	return b.store.readAt(ctx, b.prefix+name, p, offset)
}

func (b below) stream(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	return b.store.stream(ctx, b.prefix+name, offset)
}

func (b below) address(name string) string { return b.store.address(b.prefix + name) }

// hubSnapshot is the current snapshot of a Hugging Face hub cache's folder of a repository, or the folder itself.
func hubSnapshot(dir string) string {
	snapshots := filepath.Join(dir, "snapshots")
	if info, err := os.Stat(snapshots); err != nil || !info.IsDir() {
		return dir
	}
	if ref, err := os.ReadFile(filepath.Join(dir, "refs", "main")); err == nil {
		now := filepath.Join(snapshots, strings.TrimSpace(string(ref)))
		if info, err := os.Stat(now); err == nil && info.IsDir() {
			return now
		}
	}
	if entries, err := os.ReadDir(snapshots); err == nil && len(entries) == 1 {
		return filepath.Join(snapshots, entries[0].Name())
	}
	return dir
}

// match lists the names of a pattern with wildcards, in order. ** stands for any folders.
func match(ctx context.Context, st store, pattern string) (names []string, err error) {
	fixed := pattern[:strings.IndexAny(pattern, "*?[")]
	dir := fixed[:strings.LastIndexByte(fixed, '/')+1]
	if d, ok := st.(disk); ok && !strings.Contains(pattern, "**") {
		found, err := filepath.Glob(d.path(pattern))
		for _, p := range found {
			names = append(names, filepath.ToSlash(p))
		}
		return names, err
	}
	from := fixed
	if _, ok := st.(disk); ok {
		if from = dir; from == "" {
			from = "."
		}
	}
	listing, err := st.list(ctx, from)
	if err != nil {
		return nil, err
	}
	for _, o := range listing {
		ok, err := matches(strings.Split(pattern, "/"), strings.Split(o.name, "/"))
		if err != nil {
			return nil, err
		}
		if ok {
			names = append(names, o.name)
		}
	}
	return names, nil
}

func matches(pattern, name []string) (bool, error) {
	if len(pattern) == 0 {
		return len(name) == 0, nil
	}
	if pattern[0] == "**" {
		for i := range len(name) + 1 {
			if ok, err := matches(pattern[1:], name[i:]); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	}
	if len(name) == 0 {
		return false, nil
	}
	ok, err := path.Match(pattern[0], name[0])
	if !ok || err != nil {
		return false, err
	}
	return matches(pattern[1:], name[1:])
}

// mostNames bounds what braces expand to.
const mostNames = 10_000_000

// braces expands {00000..00127} and {a,b}, as webdataset and shells do.
func braces(pattern string) []string {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return []string{pattern}
	}
	depth, end := 0, -1
	var commas []int
	for i := open; i < len(pattern) && end < 0; i++ {
		switch pattern[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				end = i
			}
		case ',':
			if depth == 1 {
				commas = append(commas, i)
			}
		}
	}
	if end < 0 {
		return []string{pattern}
	}
	head, inner, rests := pattern[:open], pattern[open+1:end], braces(pattern[end+1:])
	var parts []string
	if from, to, ok := strings.Cut(inner, ".."); ok && len(commas) == 0 {
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil && a >= 0 && b >= a && b-a < mostNames {
			width := 0
			if from[0] == '0' || len(from) == len(to) {
				width = len(from)
			}
			for n := a; n <= b; n++ {
				parts = append(parts, fmt.Sprintf("%0*d", width, n))
			}
		}
	} else if len(commas) > 0 {
		last := open
		for _, c := range append(commas, end) {
			parts = append(parts, braces(pattern[last+1:c])...)
			last = c
		}
	}
	if parts == nil {
		parts = []string{"{" + inner + "}"}
	}
	var out []string
	for _, p := range parts {
		for _, r := range rests {
			out = append(out, head+p+r)
		}
	}
	return out
}
