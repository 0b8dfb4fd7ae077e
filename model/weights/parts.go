package weights

import (
	"fmt"
	"maps"
	"slices"
)

// OpenParts opens files that hold the tensors of one file between them, each tensor in one of them.
func OpenParts(paths []string) (Source, error) {
	s := &sharded{byName: map[string]*File{}}
	for _, path := range paths {
		if s.index == "" {
			s.index = path
		}
		f, err := Open(path)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.files = append(s.files, f)
		for _, name := range f.Names() {
			if other := s.byName[name]; other != nil {
				s.Close()
				return nil, fmt.Errorf("%s and %s both have tensor %s: the files do not belong together", other.Path(), path, name)
			}
			s.byName[name] = f
		}
	}
	s.names = slices.Sorted(maps.Keys(s.byName))
	return s, nil
}
