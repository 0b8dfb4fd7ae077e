package data

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"fewstep/internal/atomicfile"

	"github.com/parquet-go/parquet-go"
)

// Record is one row of the parquet files that this package writes.
type Record struct {
	Key     string  `parquet:"key"`               // unique name of the image
	Image   []byte  `parquet:"image"`             // encoded PNG, JPEG or WebP
	Caption string  `parquet:"caption,zstd"`      // fine caption: "red apple, noto style"
	Kind    string  `parquet:"kind,dict,zstd"`    // the kind of thing: "apple, noto style"; may be empty
	Coarse  string  `parquet:"coarse,dict,zstd"`  // shared by many images: "fruit, noto style"
	Concept string  `parquet:"concept,zstd"`      // what is shown, without the style
	Style   string  `parquet:"style,dict,zstd"`   // "noto", "fluent 3d"
	Split   string  `parquet:"split,dict,zstd"`   // "train" or "eval"
	Weight  float32 `parquet:"weight"`            // expected draws per epoch
	Source  string  `parquet:"source,dict,zstd"`  // package and version
	License string  `parquet:"license,dict,zstd"` // SPDX names of image and caption
}

// WriteParquet writes records to path, whole or not at all.
func WriteParquet(path string, records []Record) error {
	return atomicfile.Write(path, func(w io.Writer) error {
		pw := parquet.NewGenericWriter[Record](w, parquet.CreatedBy("fewstep", "1", "0"))
		for len(records) > 0 {
			n := min(512, len(records))
			if _, err := pw.Write(records[:n]); err != nil {
				return err
			}
			if err := pw.Flush(); err != nil {
				return err
			}
			records = records[n:]
		}
		return pw.Close()
	})
}

// Column names that other data sets use, in order of preference.
var (
	imageColumns   = []string{"image.bytes", "image", "image_bytes", "bytes", "jpg", "png", "webp", "jpeg"}
	captionColumns = []string{"caption", "text", "prompt", "txt", "TEXT"}
	keyColumns     = []string{"key", "id", "__key__", "image.path", "file_name"}
)

// columnIndex maps the columns of a captioned parquet file to leaf positions;
// −1 marks one that is absent.
type columnIndex struct {
	key, image, caption, kind, coarse, concept, style, split, weight int
}

func findColumns(schema *parquet.Schema) (columnIndex, error) {
	leaf := map[string]int{}
	var names []string
	for i, path := range schema.Columns() {
		name := strings.Join(path, ".")
		leaf[name] = i
		names = append(names, name)
	}
	first := func(candidates ...string) int {
		for _, c := range candidates {
			if i, ok := leaf[c]; ok {
				return i
			}
		}
		return -1
	}
	c := columnIndex{
		key: first(keyColumns...), image: first(imageColumns...), caption: first(captionColumns...),
		kind: first("kind"), coarse: first("coarse"), concept: first("concept"), style: first("style"),
		split: first("split"), weight: first("weight"),
	}
	if c.image < 0 {
		return c, fmt.Errorf("no image column; want one of %s, have %s", strings.Join(imageColumns, ", "), strings.Join(names, ", "))
	}
	if c.caption < 0 {
		return c, fmt.Errorf("no caption column; want one of %s, have %s", strings.Join(captionColumns, ", "), strings.Join(names, ", "))
	}
	kinds := schemaKinds(schema)
	for name, i := range map[string]int{"image": c.image, "caption": c.caption, "key": c.key, "kind": c.kind,
		"coarse": c.coarse, "concept": c.concept, "style": c.style, "split": c.split} {
		if i >= 0 && name != "key" && kinds[i] != parquet.ByteArray && kinds[i] != parquet.FixedLenByteArray {
			return c, fmt.Errorf("column %s holds %v, want bytes or text", names[i], kinds[i])
		}
	}
	if c.weight >= 0 && kinds[c.weight] != parquet.Float && kinds[c.weight] != parquet.Double {
		return c, fmt.Errorf("column weight holds %v, want a floating-point number", kinds[c.weight])
	}
	return c, nil
}

func schemaKinds(schema *parquet.Schema) []parquet.Kind {
	var kinds []parquet.Kind
	for _, path := range schema.Columns() {
		kind := parquet.ByteArray
		if column, ok := schema.Lookup(path...); ok {
			kind = column.Node.Type().Kind()
		}
		kinds = append(kinds, kind)
	}
	return kinds
}

// readParquet reads every row of a captioned parquet file. A damaged file gives
// an error that names it; it never panics.
func readParquet(path string) (rows []Row, images []file, err error) {
	defer func() {
		if p := recover(); p != nil { // parquet-go panics on some damaged pages
			rows, images, err = nil, nil, fmt.Errorf("%s: damaged parquet file: %v; make or fetch it again", path, p)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	pf, err := parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: not a readable parquet file: %w; make or fetch it again", path, err)
	}
	columns, err := findColumns(pf.Schema())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	buf := make([]parquet.Row, 64)
	for g, group := range pf.RowGroups() {
		reader := group.Rows()
		for {
			n, err := reader.ReadRows(buf)
			for _, r := range buf[:n] {
				row, image := columns.row(r, len(rows))
				rows = append(rows, row)
				images = append(images, file{content: image, path: path})
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || n == 0 {
				reader.Close()
				return nil, nil, fmt.Errorf("%s: row group %d, after row %d: damaged parquet file: %w; make or fetch it again", path, g, len(rows), err)
			}
		}
		if err := reader.Close(); err != nil {
			return nil, nil, fmt.Errorf("%s: row group %d: %w", path, g, err)
		}
	}
	if int64(len(rows)) != pf.NumRows() {
		return nil, nil, fmt.Errorf("%s: holds %d rows, its footer says %d; make or fetch it again", path, len(rows), pf.NumRows())
	}
	return rows, images, nil
}

// row copies the values of one parquet row; absent columns stay empty and an
// absent weight is 1.
func (c columnIndex) row(values parquet.Row, number int) (Row, []byte) {
	row := Row{Weight: 1}
	var image []byte
	for _, v := range values {
		if v.IsNull() {
			continue
		}
		switch v.Column() {
		case c.image:
			image = append([]byte(nil), v.ByteArray()...)
		case c.caption:
			row.Caption = string(v.ByteArray())
		case c.key:
			row.Key = v.String()
		case c.kind:
			row.Kind = string(v.ByteArray())
		case c.coarse:
			row.Coarse = string(v.ByteArray())
		case c.concept:
			row.Concept = string(v.ByteArray())
		case c.style:
			row.Style = string(v.ByteArray())
		case c.split:
			row.Split = string(v.ByteArray())
		case c.weight:
			if v.Kind() == parquet.Float {
				row.Weight = v.Float()
			} else {
				row.Weight = float32(v.Double())
			}
		}
	}
	if row.Key == "" {
		row.Key = fmt.Sprintf("row%d", number)
	}
	if image == nil {
		image = []byte{} // an empty image, not a file of its own
	}
	return row, image
}
