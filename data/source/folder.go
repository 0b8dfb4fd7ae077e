package source

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"

	"fewstep/data/images"
	"fewstep/internal/text"

	"golang.org/x/sync/errgroup"
)

// scanned is what a listing of files holds.
type scanned struct {
	shards  []*shard
	images  []object
	sides   map[string]map[string]object // side files: by path without the last extension, then by extension
	tables  map[string]map[string]map[string]any
	joins   map[string]object // parquet files without images: by path without the extension
	used    map[string]bool   // side files that belong to an image
	skipped tally
}

// scan sorts a listing: shards, images, and the side files with captions. What is left over is counted by reason.
func scan(ctx context.Context, st store, listing []object, opt Options) (*scanned, error) {
	s := &scanned{sides: map[string]map[string]object{}, tables: map[string]map[string]map[string]any{}, joins: map[string]object{}, used: map[string]bool{}, skipped: tally{}}
	var parquets []object
	mds := map[string]bool{} // files of MDS data sets
	for _, o := range listing {
		if path.Base(o.name) != "index.json" || hidden(o.name) || o.size <= 0 || o.size > 256<<20 {
			continue
		}
		raw, err := readAll(ctx, st, o)
		if err != nil {
			return nil, err
		}
		index, ok, err := parseMDS(raw)
		if err != nil && ok {
			return nil, fmt.Errorf("%s: %w", st.address(o.name), err)
		} else if !ok {
			continue
		}
		mds[o.name] = true
		if err := s.addMDS(st, path.Dir(o.name), index, listing, mds); err != nil {
			return nil, err
		}
	}
	tars, folders := map[string]bool{}, map[string]bool{}
	for _, o := range listing {
		folders[path.Dir(o.name)] = true
		ext := strings.ToLower(path.Ext(o.name))
		stem := o.name[:len(o.name)-len(ext)]
		switch base := path.Base(o.name); {
		case mds[o.name]:
		case hidden(o.name):
			s.skipped.add("hidden files, which systems and tools leave", o.name)
		case images.IsName(o.name):
			s.images = append(s.images, o)
		case ext == ".tar":
			tars[stem] = true
			s.shards = append(s.shards, &shard{kind: tarShard, object: o, prefix: stem})
		case ext == ".tgz", strings.HasSuffix(strings.ToLower(o.name), ".tar.gz"), strings.HasSuffix(strings.ToLower(o.name), ".tar.zst"):
			s.skipped.add("compressed tars, whose samples cannot be read one by one: unpack them", o.name)
		case ext == ".parquet":
			parquets = append(parquets, o)
		case strings.EqualFold(base, "metadata.jsonl"), strings.EqualFold(base, "metadata.csv"):
			table, err := readTable(ctx, st, o)
			if err != nil {
				return nil, err
			}
			for name, columns := range table {
				dir := path.Dir(o.name)
				if s.tables[dir] == nil {
					s.tables[dir] = map[string]map[string]any{}
				}
				s.tables[dir][name] = columns
			}
		case isText(strings.TrimPrefix(ext, ".")):
			if s.sides[stem] == nil {
				s.sides[stem] = map[string]object{}
			}
			s.sides[stem][ext] = o
		case ext == "":
			s.skipped.add("files of other kinds (no extension)", o.name)
		default:
			s.skipped.add("files of other kinds ("+ext+")", o.name)
		}
	}
	var unlike error // what the first parquet file without images has in its place
	for _, o := range parquets {
		stem := o.name[:len(o.name)-len(path.Ext(o.name))]
		pf, err := openParquet(ctx, st, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", st.address(o.name), err)
		}
		if _, err := findColumns(pf.Schema(), true, false); err == nil {
			s.shards = append(s.shards, &shard{kind: parquetShard, object: o, prefix: stem})
		} else if tars[stem] || folders[stem] {
			s.joins[stem] = o
		} else {
			s.skipped.add("parquet files without images", o.name)
			if unlike == nil {
				unlike = fmt.Errorf("%s: %w", st.address(o.name), err)
			}
		}
	}
	if len(s.shards) == 0 && len(s.images) == 0 && unlike != nil {
		return nil, unlike
	}
	for _, sh := range s.shards {
		if o, ok := s.joins[sh.prefix]; ok && sh.kind == tarShard {
			sh.join = &o
		}
	}
	slices.SortStableFunc(s.shards, func(a, b *shard) int { return strings.Compare(a.object.name, b.object.name) })
	return s, nil
}

func (s *scanned) addMDS(st store, dir string, index mdsIndex, listing []object, mds map[string]bool) error {
	byName := map[string]object{}
	for _, o := range listing {
		byName[o.name] = o
	}
	for _, sh := range index.Shards {
		if sh.Format != "mds" {
			return fmt.Errorf("%s: shards of the format %q; MDS is read", st.address(path.Join(dir, "index.json")), sh.Format)
		}
		raw := path.Join(dir, sh.Raw.Name)
		o, ok := byName[raw]
		if !ok && sh.Zip != nil {
			o, ok = byName[path.Join(dir, sh.Zip.Name)]
		}
		if !ok {
			return fmt.Errorf("%s is listed in index.json and is not there", st.address(raw))
		}
		mds[o.name], mds[raw] = true, true
		if sh.Zip != nil {
			mds[path.Join(dir, sh.Zip.Name)] = true
		}
		s.shards = append(s.shards, &shard{kind: mdsKind, object: o, mds: sh, prefix: strings.TrimSuffix(raw, ".mds")})
	}
	return nil
}

// readTable reads metadata.jsonl or metadata.csv: columns of each file_name.
func readTable(ctx context.Context, st store, o object) (map[string]map[string]any, error) {
	raw, err := readAll(ctx, st, o)
	if err != nil {
		return nil, err
	}
	wrap := func(line int, err error) error { return fmt.Errorf("%s: line %d: %w", st.address(o.name), line, err) }
	content, err := text.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", st.address(o.name), err)
	}
	table := map[string]map[string]any{}
	add := func(line int, columns map[string]any) error {
		for _, key := range []string{"file_name", "filename", "file", "image", "path"} {
			if name, ok := columns[key].(string); ok && name != "" {
				delete(columns, key)
				table[path.Clean(strings.ReplaceAll(name, "\\", "/"))] = columns
				return nil
			}
		}
		return wrap(line, errors.New("no file_name"))
	}
	if strings.EqualFold(path.Ext(o.name), ".csv") {
		r := csv.NewReader(strings.NewReader(content))
		head, err := r.Read()
		if err != nil {
			return nil, wrap(1, err)
		}
		for line := 2; ; line++ {
			record, err := r.Read()
			if errors.Is(err, io.EOF) {
				return table, nil
			}
			if err != nil {
				return nil, wrap(line, err)
			}
			columns := map[string]any{}
			for i, v := range record {
				columns[head[i]] = v
			}
			if err := add(line, columns); err != nil {
				return nil, err
			}
		}
	}
	for i, line := range strings.Split(content, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var columns map[string]any
		if err := json.Unmarshal([]byte(line), &columns); err != nil {
			return nil, wrap(i+1, err)
		}
		if err := add(i+1, columns); err != nil {
			return nil, err
		}
	}
	return table, nil
}

// indexImages indexes the images that are files of their own, with the captions beside them.
func (s *scanned) indexImages(ctx context.Context, st store, opt Options) (*builder, error) {
	b := newBuilder()
	alike := map[string]int{} // images that differ in the extension alone
	for _, o := range s.images {
		alike[strings.TrimSuffix(o.name, path.Ext(o.name))]++
	}
	joins, failures := map[string]*joined{}, []*joined{}
	for stem, o := range s.joins {
		j, err := readJoined(ctx, st, o)
		if err != nil {
			return nil, err
		}
		joins[stem] = j
		failures = append(failures, j)
	}
	const chunk = 4096
	for from := 0; from < len(s.images); from += chunk {
		part := s.images[from:min(from+chunk, len(s.images))]
		samples := make([]sample, len(part))
		var group errgroup.Group
		group.SetLimit(workers(st))
		for i, o := range part {
			group.Go(func() error { return s.sample(ctx, st, o, &samples[i]) })
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		for i, o := range part {
			stem := strings.TrimSuffix(o.name, path.Ext(o.name))
			x := &samples[i]
			x.key, x.field, x.image = stem, "image", place{Name: o.name, Size: max(o.size, 0)}
			if alike[stem] > 1 {
				x.key = o.name
			}
			for _, name := range []string{stem, o.name} {
				for ext := range s.sides[name] {
					s.used[name+ext] = true
				}
			}
			e := entry{Row: Row{Key: x.key, Weight: 1}, place: x.image}
			if j := joins[path.Dir(o.name)]; j != nil {
				if row, ok := j.rows[path.Base(stem)]; ok {
					j.seen[path.Base(stem)] = true
					e = row
					e.Key, e.place = x.key, x.image
				}
			}
			fromColumns(&e, x.columns)
			for dir := path.Dir(o.name); ; dir = path.Dir(dir) {
				if columns, ok := s.tables[dir][strings.TrimPrefix(strings.TrimPrefix(o.name, dir), "/")]; ok {
					fromColumns(&e, columns)
				}
				if dir == "." || dir == "/" {
					break
				}
			}
			if texts := nonEmpty(x.captions); len(texts) > 0 {
				e.Caption, e.Also = texts[0], nil
			}
			switch {
			case x.wrong != "" && e.Caption == "" && !opt.Uncaptioned:
				b.flaw(o.name, x.wrong)
			case e.Caption == "" && len(x.captions) == 0 && !opt.Uncaptioned:
				b.flaw(o.name, "no caption; write one to "+path.Base(stem)+".txt")
			default:
				b.add(e, opt.Uncaptioned)
			}
		}
	}
	for _, j := range failures {
		for reason, f := range j.failed {
			b.skipped.addN(reason, f.Example, f.Count)
		}
	}
	return b, nil
}

// sample reads an image's side files.
func (s *scanned) sample(ctx context.Context, st store, o object, to *sample) error {
	stem := strings.TrimSuffix(o.name, path.Ext(o.name))
	for _, name := range []string{stem, o.name} {
		for _, ext := range []string{".prompt", ".text", ".caption", ".txt", ".json"} { // a later text goes before
			side, ok := s.sides[name][ext]
			if !ok {
				continue
			}
			if side.size > largestText {
				to.wrong = fmt.Sprintf("%s has %d bytes, too many for a caption", side.name, side.size)
				continue
			}
			if side.size < 0 {
				to.wrong = side.name + " is a link to nothing"
				continue
			}
			raw, err := readAll(ctx, st, side)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			to.side(ext[1:], raw)
		}
	}
	return nil
}

// leftover counts side files that belong to no image.
func (s *scanned) leftover() {
	for stem, sides := range s.sides {
		for ext, o := range sides {
			if s.used[stem+ext] {
				continue
			}
			if ext == ".json" && strings.HasSuffix(stem, "_stats") {
				continue // img2dataset's figures of a shard
			}
			s.skipped.add("captions without an image", o.name)
		}
	}
}

// workers is how many objects are read at a time.
func workers(st store) int {
	if st.remote() {
		return 32
	}
	return max(2, runtime.GOMAXPROCS(0))
}
