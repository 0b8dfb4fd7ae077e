// Package encoded keeps what the VAE and the text encoders make of a data set, so that it is made once for any number of runs.
//
// A folder of encodings holds
//
//	encoded.json              what was encoded, with what, and the names of the shards: see Manifest
//	rows.parquet              the rows that were encoded, as a selection of the source
//	latents/HASH.safetensors  of 256 rows of the source: latents [n, h, w, C] bf16, scaled as the UNet takes them (channels last)
//	text/HASH.safetensors     of some 256 captions: text [n, tokens, width] bf16 and pooled [n, width] bf16; the metadata's
//	                          "captions" is a JSON list of the captions
//
// A shard's name is a hash of all that it is made of: the encoder's weights, the resolution, the decoder's version, and the
// identities of the images or the captions. So a shard that is there needs not be made again, after a kill or a change of
// some captions; and any number of processes makes the same shards with the same bytes. Images that could not be decoded
// have zeros in the place of latents; the metadata's "bad" names them, and rows.parquet leaves them out.
package encoded

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"fewstep/data"
	"fewstep/model/weights"
)

// PerShard is how many rows a shard of latents holds.
const PerShard = 256

// Manifest describes a folder of encodings.
type Manifest struct {
	Version    int      `json:"version"`
	Source     string   `json:"source"`      // address of the rows
	Rows       int      `json:"rows"`        // of the source
	Bad        int      `json:"bad"`         // rows whose images could not be decoded
	Decoder    int      `json:"decoder"`     // images.DecoderVersion
	Resolution int      `json:"resolution"`  // side of the squares in pixels
	Tile       int      `json:"tile"`        // of the VAE; 0 = whole images
	VAE        string   `json:"vae"`         // hash of its weights
	Latent     []int    `json:"latent"`      // [h, w, C]
	Latents    []string `json:"latents"`     // shards, in the order of the rows
	Text       string   `json:"text"`        // hash of the text encoders' weights; "" = text is not encoded
	TextShape  []int    `json:"text_shape"`  // [tokens, width]
	PooledSize int      `json:"pooled_size"` //
	Texts      []string `json:"texts"`       // shards; a caption's is that of its hash
}

const version = 1

// textShard is the number of a caption's shard.
func textShard(caption string, shards int) int {
	h := fnv.New64a()
	h.Write([]byte(caption))
	return int(h.Sum64() % uint64(shards))
}

// ReadManifest reads a folder's.
func ReadManifest(dir string) (m Manifest, err error) {
	path := filepath.Join(dir, data.EncodedManifest)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s: the folder is not encoded to its end: the same 'data encode' continues: %w", dir, err)
	} else if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	if m.Version != version {
		return m, fmt.Errorf("%s: encodings of version %d, where %d is read; encode again", path, m.Version, version)
	}
	return m, nil
}

// Store reads encodings. It is safe for concurrent use.
type Store struct {
	Manifest
	dir  string
	mu   sync.Mutex
	open map[string]*shard
}

// shard is an open shard; captions number its texts.
type shard struct {
	file     *weights.File
	captions map[string]int
}

// Open opens a folder of encodings.
func Open(dir string) (*Store, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	return &Store{Manifest: m, dir: dir, open: map[string]*shard{}}, nil
}

func (s *Store) shard(folder, name string) (*shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.open[name]; sh != nil {
		return sh, nil
	}
	f, err := weights.Open(filepath.Join(s.dir, folder, name+".safetensors"))
	if err != nil {
		return nil, fmt.Errorf("%w; encode again, which makes what is missing", err)
	}
	sh := &shard{file: f, captions: map[string]int{}}
	if list := f.Metadata()["captions"]; list != "" {
		var captions []string
		if err := json.Unmarshal([]byte(list), &captions); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: captions: %w", f.Path(), err), f.Close())
		}
		for i, c := range captions {
			sh.captions[c] = i
		}
	}
	s.open[name] = sh
	return sh, nil
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

// Latent returns the scaled latents [h·w·C] of a row of the source.
func (s *Store) Latent(row int) ([]float32, error) {
	if row < 0 || row >= s.Rows {
		return nil, fmt.Errorf("%s: row %d of %d", s.dir, row, s.Rows)
	}
	sh, err := s.shard("latents", s.Latents[row/PerShard])
	if err != nil {
		return nil, err
	}
	return sh.row("latents", row%PerShard)
}

// Embedding returns the text [tokens·width] and pooled embeddings of a caption.
func (s *Store) Embedding(caption string) (text, pooled []float32, err error) {
	if len(s.Texts) == 0 {
		return nil, nil, fmt.Errorf("%s: text is not encoded", s.dir)
	}
	sh, err := s.shard("text", s.Texts[textShard(caption, len(s.Texts))])
	if err != nil {
		return nil, nil, err
	}
	i, ok := sh.captions[caption]
	if !ok {
		return nil, nil, fmt.Errorf("%s: the caption %q is not encoded: captions have changed; encode again", s.dir, caption)
	}
	if text, err = sh.row("text", i); err == nil {
		pooled, err = sh.row("pooled", i)
	}
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
