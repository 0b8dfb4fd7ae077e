package encoded

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"fewstep/data/bucket"
	"fewstep/model/weights"
)

// mostOpen is how many shards are kept open.
const mostOpen = 256

// Store reads encodings. It is safe for concurrent use.
type Store struct {
	Manifest
	dir   string
	mu    sync.Mutex
	open  map[string]*shard
	clock int64
}

// shard is an open shard.
type shard struct {
	file     *weights.File
	captions map[string]int   // numbers of its texts
	at       [PerShard]latent // where each row's latents are
	users    int
	used     int64 // when it was wanted last, by the store's clock
}

// latent is a row's place: its shape, and its number among the shard's rows of that shape.
type latent struct {
	shape bucket.Size // zero = the row has no latents
	row   int
}

// Open opens a folder of encodings.
func Open(dir string) (*Store, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	return &Store{Manifest: m, dir: dir, open: map[string]*shard{}}, nil
}

// with gives a shard to use, and closes one that was not wanted for long where many are open.
func (s *Store) with(folder, name string, use func(*shard) error) error {
	sh, err := s.take(folder, name)
	if err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		sh.users--
		s.mu.Unlock()
	}()
	return use(sh)
}

func (s *Store) take(folder, name string) (*shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	sh := s.open[name]
	if sh == nil {
		if err := s.closeOldest(); err != nil {
			return nil, err
		}
		f, err := weights.Open(filepath.Join(s.dir, folder, name+".safetensors"))
		if err != nil {
			return nil, fmt.Errorf("%w; encode again, which makes what is missing", err)
		}
		sh = &shard{file: f}
		if err := sh.index(s.Shapes); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", f.Path(), err), f.Close())
		}
		s.open[name] = sh
	}
	sh.users++
	sh.used = s.clock
	return sh, nil
}

func (s *Store) closeOldest() error {
	if len(s.open) < mostOpen {
		return nil
	}
	oldest := ""
	for name, sh := range s.open {
		if sh.users == 0 && (oldest == "" || sh.used < s.open[oldest].used) {
			oldest = name
		}
	}
	if oldest == "" {
		return nil
	}
	err := s.open[oldest].file.Close()
	delete(s.open, oldest)
	return err
}

// index reads where everything is.
func (sh *shard) index(shapes []bucket.Size) error {
	if list := sh.file.Metadata()["captions"]; list != "" {
		var captions []string
		if err := json.Unmarshal([]byte(list), &captions); err != nil {
			return fmt.Errorf("captions: %w", err)
		}
		sh.captions = map[string]int{}
		for i, c := range captions {
			sh.captions[c] = i
		}
		return nil
	}
	have := map[string]bool{}
	for _, name := range sh.file.Names() {
		have[name] = true
	}
	for _, shape := range shapes {
		if !have[of(rowsName, shape)] {
			continue
		}
		t, err := sh.file.Tensor(of(rowsName, shape))
		if err != nil {
			return err
		}
		b, err := t.Bytes()
		if err != nil {
			return err
		}
		for i := range len(b) / 4 {
			row := binary.LittleEndian.Uint32(b[4*i:])
			if row >= PerShard {
				return fmt.Errorf("tensor %q: row %d of %d", t.Name, row, PerShard)
			}
			sh.at[row] = latent{shape, i}
		}
	}
	return nil
}

// row reads one row of a tensor.
func (sh *shard) row(name string, i int) ([]float32, error) {
	t, err := sh.file.Tensor(name)
	if err == nil {
		if t, err = t.Rows(i, i+1); err == nil {
			return t.Float32()
		}
	}
	return nil, fmt.Errorf("%s: %w", sh.file.Path(), err)
}

// Latent returns the scaled latents [h·w·C] of a row of the source and the shape of its picture; deviation is nil unless
// Deviations are there.
func (s *Store) Latent(row int) (mean, deviation []float32, shape bucket.Size, err error) {
	if row < 0 || row >= s.Rows {
		return nil, nil, shape, fmt.Errorf("%s: row %d of %d", s.dir, row, s.Rows)
	}
	err = s.with("latents", s.Latents[row/PerShard], func(sh *shard) (err error) {
		at := sh.at[row%PerShard]
		if shape = at.shape; shape.Width == 0 {
			return fmt.Errorf("%s: row %d has no latents: its image could not be decoded", sh.file.Path(), row)
		}
		if mean, err = sh.row(of(latentsName, shape), at.row); err == nil && s.Deviations {
			deviation, err = sh.row(of(deviationsName, shape), at.row)
		}
		return err
	})
	return mean, deviation, shape, err
}

// Embedding returns the text [tokens·width] and pooled embeddings of a caption.
func (s *Store) Embedding(caption string) (text, pooled []float32, err error) {
	if len(s.Texts) == 0 {
		return nil, nil, fmt.Errorf("%s: text is not encoded", s.dir)
	}
	err = s.with("text", s.Texts[textShard(caption, len(s.Texts))], func(sh *shard) (err error) {
		i, ok := sh.captions[caption]
		if !ok {
			return fmt.Errorf("%s: the caption %q is not encoded: captions have changed; encode again", s.dir, caption)
		}
		if text, err = sh.row("text", i); err == nil {
			pooled, err = sh.row("pooled", i)
		}
		return err
	})
	return text, pooled, err
}

// Close closes the shards.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, sh := range s.open {
		errs = append(errs, sh.file.Close())
	}
	s.open = map[string]*shard{}
	return errors.Join(errs...)
}
