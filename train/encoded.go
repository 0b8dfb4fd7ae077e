package train

import (
	"fmt"
	"os"

	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// encoded is a file of the run directory with one record for each image or caption of the data set, in the set's order:
// what the VAE or the text encoders made of it, f32, little-endian. It is made once for all processes of a run and read
// sample by sample, so neither a start nor the host's memory depends on how large the data set is.
type encoded struct {
	file *os.File
	size int // values of a record
}

// chunk is how many records are made, and synced, at a time.
const chunk = 64

// encoded opens a file of n records, which it makes, or makes the rest of, where that is not done: fill gives records first
// to end−1.
func (r *Run) encoded(name string, n, size int, fill func(first, end int) ([][]float32, error)) (*encoded, error) {
	have, err := r.Dir.HasArtifact(rundir.Encoded, name)
	if err != nil {
		return nil, err
	}
	if !have {
		err := r.Dir.SaveArtifact(rundir.Encoded, rundir.File{Name: name, WritePath: func(path string) error { return encode(path, n, size, fill) }})
		if err != nil {
			return nil, err
		}
	}
	path := r.Dir.ArtifactPath(rundir.Encoded, name)
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
	return &encoded{f, size}, nil
}

// encode writes a file of records from where an earlier process was stopped. What the file's manifest does not list yet
// need not be whole: of the chunks in it all but the last were synced before the next was begun, so that one is made again.
func encode(path string, n, size int, fill func(first, end int) ([][]float32, error)) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	record := int64(4 * size)
	whole := min(info.Size()/record, int64(n)) / chunk * chunk
	first := int(max(whole-chunk, 0))
	if err := f.Truncate(int64(first) * record); err != nil {
		return err
	}
	for ; first < n; first += chunk {
		end := min(first+chunk, n)
		records, err := fill(first, end)
		if err != nil {
			return err
		}
		raw := make([]byte, 0, int64(end-first)*record)
		for i, v := range records {
			if len(v) != size {
				return fmt.Errorf("%s: record %d has %d values, the UNet takes %d", path, first+i, len(v), size)
			}
			b, err := weights.Encode(v, weights.F32)
			if err != nil {
				return fmt.Errorf("%s: record %d: %w", path, first+i, err)
			}
			raw = append(raw, b...)
		}
		if _, err := f.WriteAt(raw, int64(first)*record); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// read returns record i. Any number of goroutines may read.
func (x *encoded) read(i int) ([]float32, error) {
	raw := make([]byte, 4*x.size)
	if _, err := x.file.ReadAt(raw, int64(i)*int64(len(raw))); err != nil {
		return nil, fmt.Errorf("record %d: %w", i, err)
	}
	return weights.Tensor{DType: weights.F32, Shape: []int{x.size}, Data: raw}.Float32()
}

func (x *encoded) close() error {
	if x == nil {
		return nil
	}
	return x.file.Close()
}
