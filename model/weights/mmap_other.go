//go:build !unix

package weights

import (
	"io"
	"os"
)

// mapFile reads the whole file where there is no mmap.
func mapFile(f *os.File, size int64) ([]byte, error) {
	data := make([]byte, size)
	_, err := io.ReadFull(io.NewSectionReader(f, 0, size), data)
	return data, err
}

func unmapFile([]byte) error { return nil }

func willNeed(mapping, part []byte) {}

func release(mapping, part []byte) {}
