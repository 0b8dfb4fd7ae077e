package encoded

import (
	"io"

	"fewstep/data/source"
)

// writeRows writes the rows that next gives as a selection.
func writeRows(path, address string, files *source.Files, next func() (row int, ok bool)) error {
	return source.WriteSelection(path, address, files, []string{"encoded"}, func() (source.Selected, error) {
		row, ok := next()
		if !ok {
			return source.Selected{}, io.EOF
		}
		return files.Select(row), nil
	})
}
