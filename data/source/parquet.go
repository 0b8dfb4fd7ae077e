package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// storeReader reads an object of a store as a file.
type storeReader struct {
	ctx   context.Context
	store store
	name  string
}

func (r storeReader) ReadAt(p []byte, offset int64) (int, error) {
	if err := r.store.readAt(r.ctx, r.name, p, offset); err != nil {
		return 0, err
	}
	return len(p), nil
}

// openParquet opens a parquet file; its footer is read.
func openParquet(ctx context.Context, st store, o object) (pf *parquet.File, err error) {
	defer recoverDamage(&err)
	if o.size == 0 {
		return nil, errors.New("not a readable parquet file: it is empty; make or fetch it again")
	}
	head := make([]byte, min(o.size, 32))
	if err := st.readAt(ctx, o.name, head, 0); err != nil {
		return nil, err
	}
	if strings.HasPrefix(string(head), "version https://git-lfs") {
		return nil, errors.New("a Git LFS pointer, not the parquet file itself; fetch it with 'git lfs pull'")
	}
	buffer := 64 << 10
	if st.remote() {
		buffer = 4 << 20
	}
	r := io.NewSectionReader(storeReader{ctx, st, o.name}, 0, o.size)
	pf, err = parquet.OpenFile(r, o.size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(buffer))
	if err != nil {
		return nil, fmt.Errorf("not a readable parquet file: %w; make or fetch it again", err)
	}
	return pf, nil
}

// recoverDamage turns a panic of parquet-go, which some damaged pages cause, into an error.
func recoverDamage(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("damaged parquet file: %v; make or fetch it again", p)
	}
}

// readRows walks a parquet file's rows without their images: take gets the row, its number in its row group and the group.
func readRows(pf *parquet.File, c parquetColumns, take func(e entry, row, group int) error) (err error) {
	defer recoverDamage(&err)
	number := 0
	for g, group := range pf.RowGroups() {
		readers := map[int]*columnReader{}
		want := slices.Clone(c.others)
		for _, i := range []int{c.caption, c.key, c.path, c.weight} {
			if i >= 0 {
				want = append(want, i)
			}
		}
		for i := range c.texts {
			want = append(want, i)
		}
		for _, i := range want {
			readers[i] = &columnReader{pages: group.ColumnChunks()[i].Pages(), buffer: make([]parquet.Value, 256), repeated: c.leaves[i].repeated}
			defer readers[i].close()
		}
		var values []parquet.Value
		for row := range int(group.NumRows()) {
			e := entry{Row: Row{Weight: 1}}
			for i, r := range readers {
				if values, err = r.row(values); err != nil {
					return fmt.Errorf("row group %d, row %d, column %s: damaged parquet file: %w; make or fetch it again", g, row, c.leaves[i].name, noEOF(err))
				}
				c.set(&e, i, values)
			}
			if e.Key == "" {
				e.Key = fmt.Sprintf("row%d", number)
			}
			number++
			if err := take(e, row, g); err != nil {
				return err
			}
		}
		for i, r := range readers {
			if v, err := r.peek(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("row group %d, column %s has more values than rows (%v, %v): damaged parquet file; make or fetch it again", g, c.leaves[i].name, v.Kind(), err)
			}
		}
	}
	if int64(number) != pf.NumRows() {
		return fmt.Errorf("holds %d rows, its footer says %d; make or fetch it again", number, pf.NumRows())
	}
	return nil
}

// indexParquet indexes a parquet file with images.
func indexParquet(ctx context.Context, st store, o object, opt Options) (b *builder, err error) {
	wrap := func(err error) error { return fmt.Errorf("%s: %w", st.address(o.name), err) }
	pf, err := openParquet(ctx, st, o)
	if err != nil {
		return nil, wrap(err)
	}
	if _, ok := pf.Lookup(selectionSource); ok {
		return nil, wrap(errSelection)
	}
	c, err := findColumns(pf.Schema(), true, !opt.Uncaptioned)
	if err != nil {
		return nil, wrap(err)
	}
	b = newBuilder()
	if pf.NumRows() == 0 {
		b.skipped.add("shards without a row", o.name)
		return b, nil
	}
	nulls, of := []bool(nil), -1
	err = readRows(pf, c, func(e entry, row, group int) error {
		if of != group {
			of = group
			if nulls, err = nullImages(pf.RowGroups()[group], c); err != nil {
				return err
			}
		}
		name := e.Name
		e.place = place{Offset: int64(row), Size: -1 - int64(group)}
		if c.named || nulls != nil && nulls[row] {
			if why := failure(e.columns); why != "" {
				b.skipped.add(why, e.Key)
				return nil
			}
			if name == "" {
				b.flaw(e.Key, "its image is null")
				return nil
			}
			file, err := st.stat(ctx, path.Join(path.Dir(o.name), name))
			if err != nil {
				if c.named {
					b.flaw(e.Key, fmt.Sprintf("column %s names the file %s, which is not there", c.leaves[c.path].name, name))
				} else {
					b.flaw(e.Key, fmt.Sprintf("its image is null, and the file %s, which its path names, is not there", name))
				}
				return nil
			}
			e.place = place{Name: name, Size: file.size}
		}
		b.add(e, opt.Uncaptioned)
		return nil
	})
	if err != nil {
		return nil, wrap(err)
	}
	for _, g := range pf.Metadata().RowGroups {
		if !c.named && c.leaves[c.image].index < len(g.Columns) {
			b.head.Bytes += g.Columns[c.leaves[c.image].index].MetaData.TotalUncompressedSize
		}
	}
	return b, nil
}

// nullImages says of each row of a group whether its image is null; nil = none is, by the file's statistics.
func nullImages(group parquet.RowGroup, c parquetColumns) ([]bool, error) {
	if c.named {
		return nil, nil
	}
	chunk := group.ColumnChunks()[c.image]
	if fc, ok := chunk.(*parquet.FileColumnChunk); ok && fc.NullCount() == 0 {
		if _, _, known := fc.Bounds(); known {
			return nil, nil
		}
		if column := fc.Node(); column != nil && column.Required() && len(strings.Split(c.leaves[c.image].name, ".")) == 1 {
			return nil, nil
		}
	}
	r := &columnReader{pages: chunk.Pages(), buffer: make([]parquet.Value, 16)}
	defer r.close()
	out := make([]bool, group.NumRows())
	var values []parquet.Value
	for i := range out {
		var err error
		if values, err = r.row(values); err != nil {
			return nil, fmt.Errorf("column %s, row %d: damaged parquet file: %w; make or fetch it again", c.leaves[c.image].name, i, noEOF(err))
		}
		out[i] = values[0].IsNull()
	}
	return out, nil
}

// readJoined reads a parquet file without images, as img2dataset writes beside its tars and folders.
func readJoined(ctx context.Context, st store, o object) (j *joined, err error) {
	pf, err := openParquet(ctx, st, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", st.address(o.name), err)
	}
	c, err := findColumns(pf.Schema(), false, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", st.address(o.name), err)
	}
	j = &joined{name: o.name, rows: map[string]entry{}, seen: map[string]bool{}, failed: tally{}}
	err = readRows(pf, c, func(e entry, _, _ int) error {
		if why := failure(e.columns); why != "" {
			j.failed.add(why, e.Key)
			return nil
		}
		j.rows[e.Key] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", st.address(o.name), err)
	}
	return j, nil
}

// ReadCaptions reads the caption column of a parquet file, which needs no images: of a list the first. An empty caption is
// an error that names its row.
func ReadCaptions(file string) (captions []string, err error) {
	st := disk{path.Dir(file)}
	o, err := st.stat(context.Background(), path.Base(file))
	if err != nil {
		return nil, err
	}
	pf, err := openParquet(context.Background(), st, o)
	if err != nil {
		return nil, err
	}
	c, err := findColumns(pf.Schema(), false, true)
	if err != nil {
		return nil, err
	}
	c.others, c.path, c.weight, c.texts = nil, -1, -1, nil
	err = readRows(pf, c, func(e entry, _, _ int) error {
		text := strings.TrimSpace(e.Caption)
		if text == "" {
			return fmt.Errorf("row %d: empty caption; give it one or remove the row", len(captions))
		}
		captions = append(captions, text)
		return nil
	})
	return captions, err
}
