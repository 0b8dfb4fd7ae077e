package data

import "fewstep/data/source"

// ReadCaptions reads the caption column of a parquet file, found by name as in Open; it needs no images and reads
// none. An empty caption is an error that names its row.
func ReadCaptions(path string) ([]string, error) { return source.ReadCaptions(path) }
