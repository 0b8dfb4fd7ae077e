package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"fewstep/internal/atomicfile"

	"github.com/parquet-go/parquet-go"
)

// A selection is a parquet file that lists some rows of a source, and stands for them as a source of its own. Its metadata
// name the source, the source's fingerprint and how the rows were chosen.
const (
	selectionSource      = "fewstep.source"
	selectionFingerprint = "fewstep.fingerprint"
	selectionFilters     = "fewstep.filters"
)

var errSelection = errors.New("a selection of rows is a source of its own; give it alone")

// Selected is a row of a selection: enough to find the image again, and to compare two selections.
type Selected struct {
	Row     int64  `parquet:"row"`               // of the source
	Key     string `parquet:"key,zstd"`          // of the row
	Shard   string `parquet:"shard,dict,zstd"`   // address of the file that holds the image
	Caption string `parquet:"caption,zstd"`      //
	License string `parquet:"license,dict,zstd"` // where the source has such a column
	SHA256  string `parquet:"sha256,zstd"`       // of the image's file, in hexadecimal; empty if it was not computed
	Width   int32  `parquet:"width,zstd"`        // of the image as it is shown, in pixels; 0 = it was not looked at
	Height  int32  `parquet:"height,zstd"`       //
}

// WriteSelection writes rows of a source, in the order of next, which gives io.EOF after the last. address is the source's.
func WriteSelection(path, address string, f *Files, filters []string, next func() (Selected, error)) error {
	return atomicfile.Write(path, func(w io.Writer) error {
		pw := parquet.NewGenericWriter[Selected](w, parquet.CreatedBy("fewstep", "1", "0"), parquet.MaxRowsPerRowGroup(1<<20),
			parquet.KeyValueMetadata(selectionSource, address), parquet.KeyValueMetadata(selectionFingerprint, f.Fingerprint()),
			parquet.KeyValueMetadata(selectionFilters, strings.Join(filters, "\n")))
		for {
			row, err := next()
			if errors.Is(err, io.EOF) {
				return pw.Close()
			}
			if err != nil {
				return err
			}
			if _, err := pw.Write([]Selected{row}); err != nil {
				return err
			}
		}
	})
}

// Chosen is the number that row i has in the source that the rows were selected from; i where nothing was selected.
func (f *Files) Chosen(i int) int {
	if f.chosen == nil {
		return i
	}
	return int(f.chosen[i])
}

// Size is the size of image i as a selection knows it; 0 where none does.
func (f *Files) Size(i int) (width, height int) {
	if f.sizes == nil {
		return 0, 0
	}
	return int(f.sizes[i][0]), int(f.sizes[i][1])
}

// KnowsSizes says whether Size knows that of every image.
func (f *Files) KnowsSizes() bool {
	return f.sizes != nil && !slices.ContainsFunc(f.sizes, func(s [2]int32) bool { return s[0] <= 0 || s[1] <= 0 })
}

// Select describes row i for a selection.
func (f *Files) Select(i int) Selected {
	r := f.Row(i)
	out := Selected{Row: int64(i), Key: r.Key, Shard: f.Shard(i), Caption: r.Caption}
	if w, h := f.Size(i); w > 0 {
		out.Width, out.Height = int32(w), int32(h)
	}
	for name, v := range f.Columns(i) {
		if lower := strings.ToLower(name); lower == "license" || lower == "licence" {
			out.License = fmt.Sprint(v)
		}
	}
	return out
}

func (f *Files) openSelection(ctx context.Context, pf *parquet.File, of, address string, opt Options) error {
	if f.rows > 0 {
		return fmt.Errorf("%s: %w", address, errSelection)
	}
	if err := f.open(ctx, of, opt); err != nil {
		return fmt.Errorf("%s: of %w", address, err)
	}
	if was, _ := pf.Lookup(selectionFingerprint); was != f.Fingerprint() {
		return fmt.Errorf("%s: its source %s has changed since the rows were chosen; filter it again", address, of)
	}
	keep, chosen := make([]int64, 0, pf.NumRows()), make([]int64, 0, pf.NumRows())
	var sizes [][2]int32
	reader := parquet.NewGenericReader[Selected](pf)
	defer reader.Close()
	rows := make([]Selected, 256)
	for {
		n, err := reader.Read(rows)
		for _, r := range rows[:n] {
			if r.Row < 0 || r.Row >= int64(f.Len()) {
				return fmt.Errorf("%s: row %d of %d of %s", address, r.Row, f.Len(), of)
			}
			if r.Width > 0 && sizes == nil {
				sizes = make([][2]int32, len(keep), pf.NumRows())
			}
			if sizes != nil {
				sizes = append(sizes, [2]int32{r.Width, r.Height})
			}
			chosen = append(chosen, r.Row)
			if f.keep != nil { // a selection of a selection
				r.Row = f.keep[r.Row]
			}
			keep = append(keep, r.Row)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
	}
	f.keep, f.chosen, f.sizes = keep, chosen, sizes
	both := io.MultiWriter(f.identity, f.contents)
	for part := range slices.Chunk(keep, 1<<13) {
		if err := binary.Write(both, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(both, "%d selected\n", len(keep))
	return err
}
