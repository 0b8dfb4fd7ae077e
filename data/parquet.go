package data

import (
	"io"

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
