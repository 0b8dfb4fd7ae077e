package weights

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// Source gives tensors by name: one File, or the shards of a model together.
// Names are sorted. Tensors are valid until Close.
type Source interface {
	Names() []string
	Tensor(name string) (Tensor, error)
	Close() error
}

// File is an open safetensors file. Its data is mapped, so opening costs the
// header only and unused tensors are never read. It is safe for concurrent use,
// except that Close must come last.
type File struct {
	path     string
	file     *os.File
	mapping  []byte
	data     []byte // the mapping after the header
	byName   map[string]entry
	names    []string
	metadata map[string]string
	size     int64
	modified time.Time
	closed   atomic.Bool
}

// Open maps the safetensors file at path and checks its whole header: its size,
// each tensor's dtype, shape and offsets, and that the tensors fill the data
// without holes or overlap. Errors name the file and the tensor.
func Open(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open weights: %w", err)
	}
	f := &File{path: path, file: file}
	if err := f.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func (f *File) load() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("not a regular file")
	}
	f.size, f.modified = info.Size(), info.ModTime()
	head := make([]byte, min(f.size, 64))
	if _, err := f.file.ReadAt(head, 0); err != nil {
		return err
	}
	if len(head) < 9 || binary.LittleEndian.Uint64(head) > maxHeaderBytes || head[8] != '{' {
		if err := foreign(f.path, head); err != nil {
			return err
		}
	}
	if f.size < 8 {
		return fmt.Errorf("%d bytes are too few for a safetensors file: it is truncated or something else", f.size)
	}
	headerBytes := binary.LittleEndian.Uint64(head)
	if headerBytes > maxHeaderBytes {
		return fmt.Errorf("header size %d is beyond the limit of %d: not a safetensors file", headerBytes, maxHeaderBytes)
	}
	if headerBytes > uint64(f.size)-8 {
		return fmt.Errorf("the header of %d bytes does not fit the file of %d: it is truncated", headerBytes, f.size)
	}
	header := make([]byte, headerBytes)
	if _, err := f.file.ReadAt(header, 8); err != nil {
		return err
	}
	entries, metadata, err := parseHeader(header, uint64(f.size)-8-headerBytes)
	if err != nil {
		return err
	}
	f.metadata = metadata
	f.byName = make(map[string]entry, len(entries))
	for _, e := range entries {
		f.byName[e.name] = e
		f.names = append(f.names, e.name)
	}
	slices.Sort(f.names)
	if f.mapping, err = mapFile(f.file, f.size); err != nil {
		return fmt.Errorf("cannot map the file: %w", err)
	}
	f.data = f.mapping[8+headerBytes:]
	return nil
}

// Path is the path given to Open.
func (f *File) Path() string { return f.path }

// Names are the tensors' names, sorted.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Metadata is the header's string map, nil when it has none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Tensor gives one tensor without copying it. It fails when the file has no
// such tensor or was changed in place since Open. (A file replaced by a rename
// stays readable as it was.)
func (f *File) Tensor(name string) (Tensor, error) {
	e, ok := f.byName[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%s: no tensor %s", f.path, name)
	}
	t := Tensor{Name: name, DType: e.dtype, Shape: slices.Clone(e.shape), file: f}
	if f.closed.Load() {
		return Tensor{}, t.errorf("the file was closed")
	}
	info, err := f.file.Stat()
	if err != nil {
		return Tensor{}, t.errorf("%w", err)
	}
	if info.Size() != f.size || !info.ModTime().Equal(f.modified) {
		return Tensor{}, t.errorf("the file was changed while in use: open it again")
	}
	t.Data = f.data[e.begin:e.end:e.end]
	return t, nil
}

// Close unmaps the file; its tensors' Data must not be touched afterwards.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	err := unmapFile(f.mapping)
	if cerr := f.file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("cannot close weights %s: %w", f.path, err)
	}
	return nil
}
