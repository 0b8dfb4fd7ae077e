package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/parquet-go/parquet-go"
)

// parquetImages reads images of parquet files by row. Files have no index of single values: pages are read forwards, and
// what a page holds is kept for a while, because rows that stand together are mostly wanted together.
type parquetImages struct {
	store store
	mu    sync.Mutex
	files map[string]*imageFile
	runs  []*run // oldest first
	bytes int64  // of all runs
}

// Bounds of what is kept.
const (
	mostRunBytes  = 256 << 20
	mostOpenFiles = 16
)

// imageFile is an open parquet file.
type imageFile struct {
	mu     sync.Mutex
	file   *parquet.File
	column int
	group  int // that is being read
	pages  parquet.Pages
	next   int64 // row that the next page begins with
}

// run is the images of a page.
type run struct {
	name   string
	group  int
	first  int64
	images [][]byte
	bytes  int64
}

func (p *parquetImages) read(ctx context.Context, o object, group int, row int64) (image []byte, err error) {
	if image, ok := p.kept(o.name, group, row); ok {
		return image, nil
	}
	f, err := p.open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.store.address(o.name), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if image, ok := p.kept(o.name, group, row); ok { // another goroutine read it meanwhile
		return image, nil
	}
	image, err = f.read(group, row, func(first int64, images [][]byte) { p.keep(o.name, group, first, images) })
	if err != nil {
		return nil, fmt.Errorf("%s: row group %d, row %d: %w", p.store.address(o.name), group, row, err)
	}
	return image, nil
}

func (p *parquetImages) kept(name string, group int, row int64) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.runs) - 1; i >= 0; i-- {
		if r := p.runs[i]; r.name == name && r.group == group && row >= r.first && row < r.first+int64(len(r.images)) {
			return r.images[row-r.first], true
		}
	}
	return nil, false
}

func (p *parquetImages) keep(name string, group int, first int64, images [][]byte) {
	r := &run{name, group, first, images, 0}
	for _, b := range images {
		r.bytes += int64(len(b)) + 24
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs = append(p.runs, r)
	p.bytes += r.bytes
	for len(p.runs) > 1 && p.bytes > mostRunBytes {
		p.bytes -= p.runs[0].bytes
		p.runs[0] = nil
		p.runs = p.runs[1:]
	}
}

func (p *parquetImages) open(ctx context.Context, o object) (*imageFile, error) {
	p.mu.Lock()
	f := p.files[o.name]
	p.mu.Unlock()
	if f != nil {
		return f, nil
	}
	file, err := openParquet(ctx, p.store, o)
	if err != nil {
		return nil, err
	}
	c, err := findColumns(file.Schema(), true, false)
	if err != nil {
		return nil, err
	}
	f = &imageFile{file: file, column: c.image}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.files == nil {
		p.files = map[string]*imageFile{}
	}
	if other := p.files[o.name]; other != nil {
		return other, nil
	}
	for name := range p.files { // any: the order of reading is mostly forwards
		if len(p.files) < mostOpenFiles {
			break
		}
		delete(p.files, name)
	}
	p.files[o.name] = f
	return f, nil
}

// read reads forwards to a row, or from its page on where the file has an index of pages.
func (f *imageFile) read(group int, row int64, keep func(first int64, images [][]byte)) (image []byte, err error) {
	defer recoverDamage(&err)
	groups := f.file.RowGroups()
	if group >= len(groups) || row >= groups[group].NumRows() {
		return nil, errors.New("there is no such row: the file has changed")
	}
	chunk := groups[group].ColumnChunks()[f.column]
	if f.pages == nil || f.group != group || row < f.next {
		f.reset()
		f.pages, f.group, f.next = chunk.Pages(), group, 0
	}
	if row > f.next {
		if fc, ok := chunk.(*parquet.FileColumnChunk); ok {
			if _, err := fc.OffsetIndex(); err == nil {
				if err := f.pages.SeekToRow(row); err != nil {
					return nil, err
				}
				f.next = row
			}
		}
	}
	for {
		page, err := f.pages.ReadPage()
		if err != nil {
			f.reset()
			return nil, fmt.Errorf("damaged parquet file: %w; make or fetch it again", noEOF(err))
		}
		first, n := f.next, page.NumRows()
		f.next += n
		if row >= f.next {
			parquet.Release(page)
			continue
		}
		images, err := pageImages(page)
		parquet.Release(page)
		if err != nil {
			f.reset()
			return nil, err
		}
		if row-first >= int64(len(images)) {
			f.reset()
			return nil, errors.New("damaged parquet file: a page has fewer values than rows")
		}
		keep(first, images)
		return images[row-first], nil
	}
}

func (f *imageFile) reset() {
	if f.pages != nil {
		f.pages.Close()
		f.pages = nil
	}
}

// pageImages copies the values of a page.
func pageImages(page parquet.Page) (images [][]byte, err error) {
	values := page.Values()
	buffer := make([]parquet.Value, 64)
	for {
		n, err := values.ReadValues(buffer)
		for _, v := range buffer[:n] {
			image := []byte{}
			if !v.IsNull() {
				image = append(image, v.ByteArray()...)
			}
			images = append(images, image)
		}
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			return images, nil
		}
		if err != nil {
			return nil, fmt.Errorf("damaged parquet file: %w; make or fetch it again", err)
		}
	}
}
