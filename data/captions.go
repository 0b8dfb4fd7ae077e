package data

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// ReadCaptions reads the caption column of a parquet file, found by name as in Open; it needs no images and reads
// none. An empty caption is an error that names its row.
func ReadCaptions(path string) (captions []string, err error) {
	defer func() {
		if p := recover(); p != nil { // parquet-go panics on some damaged pages
			captions, err = nil, fmt.Errorf("damaged parquet file: %v; make or fetch it again", p)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pf, err := parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, fmt.Errorf("not a readable parquet file: %w; make or fetch it again", err)
	}
	column, err := captionColumn(pf.Schema())
	if err != nil {
		return nil, err
	}
	buf := make([]parquet.Value, 512)
	for g, group := range pf.RowGroups() {
		pages := group.ColumnChunks()[column].Pages()
		for {
			page, err := pages.ReadPage()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				captions, err = pageCaptions(page, buf, captions)
			}
			if err != nil {
				pages.Close()
				return nil, fmt.Errorf("row group %d, after row %d: %w", g, len(captions), err)
			}
		}
		if err := pages.Close(); err != nil {
			return nil, err
		}
	}
	if int64(len(captions)) != pf.NumRows() {
		return nil, fmt.Errorf("holds %d captions, its footer says %d rows; make or fetch it again", len(captions), pf.NumRows())
	}
	return captions, nil
}

func pageCaptions(page parquet.Page, buf []parquet.Value, captions []string) ([]string, error) {
	defer parquet.Release(page)
	values := page.Values()
	for {
		n, err := values.ReadValues(buf)
		for _, v := range buf[:n] {
			text := ""
			if !v.IsNull() {
				text = strings.TrimSpace(string(v.ByteArray()))
			}
			if text == "" {
				return nil, fmt.Errorf("row %d: empty caption; give it one or remove the row", len(captions))
			}
			captions = append(captions, text)
		}
		if errors.Is(err, io.EOF) {
			return captions, nil
		}
		if err != nil {
			return nil, fmt.Errorf("damaged parquet file: %w; make or fetch it again", err)
		}
	}
}

func captionColumn(schema *parquet.Schema) (int, error) {
	kinds := schemaKinds(schema)
	var names []string
	for _, path := range schema.Columns() {
		names = append(names, strings.Join(path, "."))
	}
	for _, want := range captionColumns {
		for i, name := range names {
			if name != want {
				continue
			}
			if kinds[i] != parquet.ByteArray {
				return 0, fmt.Errorf("column %s holds %v, want text", name, kinds[i])
			}
			return i, nil
		}
	}
	return 0, fmt.Errorf("no caption column; want one of %s, have %s", strings.Join(captionColumns, ", "), strings.Join(names, ", "))
}
