package train

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"

	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// fileRecords is a file of the run directory with one record for each image or caption of the data set, in the set's order:
// what the VAE or the text encoders made of it, f32, little-endian. It is made once for all processes of a run and read
// sample by sample, so neither a start nor the host's memory depends on how large the data set is.
type fileRecords struct {
	file *os.File
	size int       // values of a record
	raw  sync.Pool // of a record's bytes
}

// chunk is how many records are made, and synced, at a time.
const chunk = 64

// encoded opens a file of n records, which it makes, or makes the rest of, where that is not done or its bytes are not those
// that were made: fill gives records first to end−1.
func (s *Setup) encoded(ctx context.Context, name string, n, size int, fill func(first, end int) ([][]float32, error)) (*fileRecords, error) {
	have := false
	err := s.visible(func() (err error) {
		if have, err = s.Dir.HasArtifact(rundir.Encoded, name); err == nil && !have && !s.leads() {
			err = fmt.Errorf("%s: %w; rank 0 has made it", s.Dir.ArtifactPath(rundir.Encoded, name), fs.ErrNotExist)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	path := s.Dir.ArtifactPath(rundir.Encoded, name)
	if !have {
		err := s.Dir.SaveArtifact(rundir.Encoded, rundir.File{Name: name, WritePath: func(path string) error { return encode(ctx, path, n, size, fill) }})
		if err != nil {
			return nil, err
		}
	}
	if s.leads() {
		if err := os.Remove(path + sumsSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) && s.Dir.ReadOnly() == nil {
			return nil, err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if want := int64(n) * int64(4*size); err == nil && info.Size() != want {
		err = fmt.Errorf("%s: %d bytes, and the data set makes %d; delete it, and the next start makes it again", path, info.Size(), want)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &fileRecords{file: f, size: size}, nil
}

// sumsSuffix names the file of SHA-256 digests, one for each chunk, beside a file that is not finished.
const sumsSuffix = ".sums"

// encode writes a file of records from where an earlier process was stopped: of the chunks that are there the first ones with
// their digests are kept. Every chunk is compared with its digest once more at the end. Without digests nothing is kept, and
// the file is made anew: of the old one a forked run may have a link. Once ctx has ended the next chunk is not begun.
func encode(ctx context.Context, path string, n, size int, fill func(first, end int) ([][]float32, error)) (err error) {
	if _, err := os.Stat(path + sumsSuffix); errors.Is(err, fs.ErrNotExist) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sums, err := os.OpenFile(path+sumsSuffix, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sums.Close()) }()
	record := int64(4 * size)
	for attempt := 0; ; attempt++ {
		first, err := soundRecords(f, sums, n, record)
		if err != nil {
			return err
		}
		if err := f.Truncate(int64(first) * record); err != nil {
			return err
		}
		if first == n {
			return f.Sync()
		}
		if attempt > 2 {
			return fmt.Errorf("%s: record %d reads back other than it was written, again and again: the disk or the memory is bad", path, first)
		}
		for ; first < n; first += chunk {
			if err := ctx.Err(); err != nil {
				return err
			}
			end := min(first+chunk, n)
			records, err := fill(first, end)
			if err != nil {
				return err
			}
			raw, err := encodeRecords(path, records, first, size)
			if err != nil {
				return err
			}
			if _, err := f.WriteAt(raw, int64(first)*record); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			sum := sha256.Sum256(raw)
			if _, err := sums.WriteAt(sum[:], int64(first/chunk*sha256.Size)); err != nil {
				return err
			}
		}
	}
}

// soundRecords counts the records at the beginning of f whose chunks have the digests in sums.
func soundRecords(f, sums *os.File, n int, record int64) (int, error) {
	raw, want := make([]byte, chunk*record), make([]byte, sha256.Size)
	for first := 0; first < n; first += chunk {
		part := raw[:int64(min(chunk, n-first))*record]
		_, err := f.ReadAt(part, int64(first)*record)
		if err == nil {
			_, err = sums.ReadAt(want, int64(first/chunk*sha256.Size))
		}
		if err == io.EOF {
			return first, nil
		}
		if err != nil {
			return 0, err
		}
		if sum := sha256.Sum256(part); !bytes.Equal(sum[:], want) {
			return first, nil
		}
	}
	return n, nil
}

// encodeRecords are records as they lie in the file.
func encodeRecords(path string, records [][]float32, first, size int) ([]byte, error) {
	raw := make([]byte, 0, len(records)*4*size)
	for i, v := range records {
		if len(v) != size {
			return nil, fmt.Errorf("%s: record %d has %d values, the UNet takes %d", path, first+i, len(v), size)
		}
		b, err := weights.Encode(v, weights.F32)
		if err != nil {
			return nil, fmt.Errorf("%s: record %d: %w", path, first+i, err)
		}
		raw = append(raw, b...)
	}
	return raw, nil
}

// read puts record i into parts that take it up together. Any number of goroutines may read.
func (x *fileRecords) read(i int, parts ...[]float32) error {
	buffer, _ := x.raw.Get().(*[]byte)
	if buffer == nil {
		buffer = &[]byte{}
		*buffer = make([]byte, 4*x.size)
	}
	defer x.raw.Put(buffer)
	raw := *buffer
	if _, err := x.file.ReadAt(raw, int64(i)*int64(len(raw))); err != nil {
		return fmt.Errorf("%s: record %d: %w", x.file.Name(), i, err)
	}
	for _, part := range parts {
		for k := range part {
			part[k] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*k:]))
		}
		raw = raw[4*len(part):]
	}
	return nil
}

func (x *fileRecords) close() error {
	if x == nil {
		return nil
	}
	return x.file.Close()
}
