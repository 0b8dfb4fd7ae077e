package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// leaf is a column of values.
type leaf struct {
	index    int
	name     string // its path joined with dots, without the levels that lists add
	kind     parquet.Kind
	text     bool // annotated as UTF-8 text
	repeated bool
}

func leaves(schema *parquet.Schema) (out []leaf) {
	for i, p := range schema.Columns() {
		l := leaf{index: i, kind: parquet.ByteArray}
		if column, ok := schema.Lookup(p...); ok {
			l.kind = column.Node.Type().Kind()
			l.repeated = column.MaxRepetitionLevel > 0
			if t := column.Node.Type().LogicalType(); t != nil {
				_, l.text = t.Value.(*format.StringType)
			}
		}
		name := slices.Clone(p)
		for len(name) > 1 && l.repeated {
			last := name[len(name)-1]
			if last != "list" && last != "element" && last != "item" && last != "array" && last != "bag" && last != "array_element" && last != "array_item" {
				break
			}
			name = name[:len(name)-1]
		}
		l.name = strings.Join(name, ".")
		out = append(out, l)
	}
	return out
}

func isBytes(k parquet.Kind) bool { return k == parquet.ByteArray || k == parquet.FixedLenByteArray }

// parquetColumns says which columns hold what; −1 = none.
type parquetColumns struct {
	leaves                    []leaf
	image, path, caption, key int
	named                     bool // image holds names of files, not files
	weight                    int
	texts                     map[int]func(e *entry, s string)
	others                    []int // columns that are kept for filters
}

// mostOthers bounds how many columns are kept.
const mostOthers = 64

func findColumns(schema *parquet.Schema, wantImage, wantCaption bool) (c parquetColumns, err error) {
	c = parquetColumns{leaves: leaves(schema), image: -1, path: -1, caption: -1, key: -1, weight: -1, texts: map[int]func(*entry, string){}}
	var names []string
	for _, l := range c.leaves {
		names = append(names, l.name)
	}
	find := func(candidates []string) int {
		if name, ok := nameOf(names, candidates); ok {
			return slices.Index(names, name)
		}
		return -1
	}
	c.image, c.path, c.caption, c.key, c.weight = find(imageNames), find(pathNames), find(captionNames), find(keyNames), find([]string{"weight"})
	have := strings.Join(names, ", ")
	if c.image >= 0 {
		switch l := c.leaves[c.image]; {
		case l.repeated:
			err = fmt.Errorf("column %s holds lists of %v; want one encoded image a row", l.name, l.kind)
		case !isBytes(l.kind):
			err = fmt.Errorf("column %s holds %v; want encoded images", l.name, l.kind)
		case l.text:
			c.named, c.path = true, c.image
		}
	} else if c.path >= 0 && strings.HasPrefix(strings.ToLower(c.leaves[c.path].name), "file") && isBytes(c.leaves[c.path].kind) {
		c.image, c.named = c.path, true // Hugging Face's metadata.parquet: names of files beside it
	} else if address := find(addressNames); address >= 0 {
		err = fmt.Errorf("no image column: column %s holds addresses of images; fetch them with img2dataset, and give what it writes", names[address])
	} else {
		err = fmt.Errorf("no image column; want one of %s, have %s", strings.Join(imageNames[:8], ", "), have)
	}
	if err != nil && wantImage {
		return c, err
	}
	if c.caption < 0 && wantCaption {
		return c, fmt.Errorf("no caption column; want one of %s, have %s", strings.Join(captionNames[:8], ", "), have)
	}
	if c.caption >= 0 && !isBytes(c.leaves[c.caption].kind) {
		if wantCaption {
			return c, fmt.Errorf("column %s holds %v, want bytes or text", names[c.caption], c.leaves[c.caption].kind)
		}
		c.caption = -1
	}
	if c.path >= 0 && (!isBytes(c.leaves[c.path].kind) || c.leaves[c.path].repeated) {
		c.path = -1
	}
	if c.key >= 0 && c.leaves[c.key].repeated {
		c.key = -1
	}
	if c.weight >= 0 && (c.leaves[c.weight].repeated || c.leaves[c.weight].kind == parquet.ByteArray || c.leaves[c.weight].kind == parquet.Boolean) {
		return c, fmt.Errorf("column weight holds %v, want a number", c.leaves[c.weight].kind)
	}
	for name, set := range map[string]func(e *entry, s string){
		"kind": func(e *entry, s string) { e.Kind = s }, "coarse": func(e *entry, s string) { e.Coarse = s },
		"concept": func(e *entry, s string) { e.Concept = s }, "style": func(e *entry, s string) { e.Style = s },
		"split": func(e *entry, s string) { e.Split = s },
	} {
		i := find([]string{name})
		if i < 0 {
			continue
		}
		if !isBytes(c.leaves[i].kind) || c.leaves[i].repeated {
			continue // another meaning of the word: it is kept as a column
		}
		c.texts[i] = set
	}
	for i, l := range c.leaves {
		_, used := c.texts[i]
		if used || l.repeated || i == c.image || i == c.path || i == c.caption || i == c.key || i == c.weight || isBytes(l.kind) && !l.text || len(c.others) == mostOthers {
			continue
		}
		c.others = append(c.others, i)
	}
	return c, nil
}

// columnReader gives a column's values row by row.
type columnReader struct {
	pages    parquet.Pages
	page     parquet.Page
	values   parquet.ValueReader
	buffer   []parquet.Value
	at, n    int
	repeated bool
	ended    bool
}

// peek is the next value; io.EOF after the last.
func (c *columnReader) peek() (parquet.Value, error) {
	for c.at == c.n {
		if c.ended {
			return parquet.Value{}, io.EOF
		}
		if c.values == nil {
			page, err := c.pages.ReadPage()
			if errors.Is(err, io.EOF) {
				c.ended = true
				continue
			}
			if err != nil {
				return parquet.Value{}, err
			}
			c.page, c.values = page, page.Values()
		}
		n, err := c.values.ReadValues(c.buffer)
		for i := range n {
			if c.repeated || c.buffer[i].Kind() == parquet.FixedLenByteArray {
				c.buffer[i] = c.buffer[i].Clone() // kept beyond its page
			}
		}
		c.at, c.n = 0, n
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			if n == 0 {
				parquet.Release(c.page)
			} // else its bytes are still needed; the collector takes it
			c.page, c.values = nil, nil
		} else if err != nil {
			return parquet.Value{}, err
		}
	}
	return c.buffer[c.at], nil
}

// row gives the values of the next row.
func (c *columnReader) row(to []parquet.Value) ([]parquet.Value, error) {
	to = to[:0]
	for {
		v, err := c.peek()
		if errors.Is(err, io.EOF) && len(to) > 0 {
			return to, nil
		}
		if err != nil {
			return to, err
		}
		if len(to) > 0 && (!c.repeated || v.RepetitionLevel() == 0) {
			return to, nil
		}
		to = append(to, v)
		c.at++
		if !c.repeated {
			return to, nil
		}
	}
}

func (c *columnReader) close() {
	if c.page != nil {
		parquet.Release(c.page)
	}
	c.pages.Close()
}

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

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// set gives a row what a column says of it.
func (c parquetColumns) set(e *entry, i int, values []parquet.Value) {
	text := func() string {
		if len(values) == 0 || values[0].IsNull() {
			return ""
		}
		if isBytes(c.leaves[i].kind) {
			return string(values[0].ByteArray())
		}
		return values[0].String()
	}
	if i == c.path {
		e.Name = text()
	}
	if i == c.key {
		e.Key = text()
	}
	switch {
	case i == c.caption:
		for _, v := range values {
			if s := ""; !v.IsNull() {
				if s = string(v.ByteArray()); e.Caption == "" {
					e.Caption = s
				} else {
					e.Also = append(e.Also, s)
				}
			}
		}
	case i == c.weight:
		if len(values) > 0 && !values[0].IsNull() {
			e.Weight = number(values[0])
		}
	case c.texts[i] != nil:
		c.texts[i](e, text())
	case slices.Contains(c.others, i):
		if v, keep := scalar(plain(values)); keep {
			if e.columns == nil {
				e.columns = map[string]any{}
			}
			e.columns[c.leaves[i].name] = v
		}
	}
}

// number reads a weight: a float of 16 to 64 bits or an integer.
func number(v parquet.Value) float32 {
	switch v.Kind() {
	case parquet.Float:
		return v.Float()
	case parquet.Double:
		return float32(v.Double())
	case parquet.Int32:
		return float32(v.Int32())
	case parquet.Int64:
		return float32(v.Int64())
	case parquet.FixedLenByteArray:
		if b := v.ByteArray(); len(b) == 2 {
			return half(uint16(b[0]) | uint16(b[1])<<8)
		}
	}
	return float32(math.NaN())
}

// half reads an IEEE number of 16 bits.
func half(h uint16) float32 {
	sign, exponent, fraction := float64(1), int(h>>10&31), float64(h&1023)
	if h>>15 == 1 {
		sign = -1
	}
	switch exponent {
	case 0:
		return float32(sign * fraction * math.Exp2(-24))
	case 31:
		if fraction != 0 {
			return float32(math.NaN())
		}
		return float32(math.Inf(int(sign)))
	}
	return float32(sign * (1 + fraction/1024) * math.Exp2(float64(exponent-15)))
}

// plain is a value as filters take it.
func plain(values []parquet.Value) any {
	if len(values) == 0 || values[0].IsNull() {
		return nil
	}
	switch v := values[0]; v.Kind() {
	case parquet.Boolean:
		return v.Boolean()
	case parquet.Int32:
		return int64(v.Int32())
	case parquet.Int64:
		return v.Int64()
	case parquet.Float:
		return float64(v.Float())
	case parquet.Double:
		return v.Double()
	case parquet.ByteArray:
		return string(v.ByteArray())
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
