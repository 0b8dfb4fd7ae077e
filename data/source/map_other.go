//go:build !unix

package source

import "os"

// mapFile reads a file where it cannot be mapped.
func mapFile(path string) (content []byte, unmap func() error, err error) {
	content, err = os.ReadFile(path)
	return content, func() error { return nil }, err
}
