// Package encoded keeps what the VAE and the text encoders make of a data set, so that it is made once for any number of runs.
//
// A folder of encodings holds
//
//	encoded.json              what was encoded, with what, and the names of the shards: see Manifest
//	rows.parquet              the rows that were encoded, as a selection of the source, with the sizes of their images
//	latents/HASH.safetensors  of 256 rows of the source, for every shape that some of them have, as 832x1216 (width, height):
//	                          latents.832x1216 [n, h, w, C] bf16, scaled as the UNet takes them, channels last (the mean of
//	                          the VAE's posterior), deviations.832x1216 of the same shape (the posterior's standard deviation;
//	                          only where it was asked for), rows.832x1216 [n] i32 (whose they are, from 0 on in the shard);
//	                          and sizes [256, 2] i32, width and height of the images before resizing
//	text/HASH.safetensors     of some 256 captions: text [n, tokens, width] bf16 and pooled [n, width] bf16; the metadata's
//	                          "captions" is a JSON list of the captions
//
// A shard's name is a hash of all that it is made of: the encoder's weights, the shapes, the decoder's version, and the
// identities of the images or the captions. So a shard that is there needs not be made again, after a kill or a change of
// some captions; and any number of processes makes the same shards with the same bytes. Images that could not be decoded
// have no latents and the size 0; the metadata's "bad" names them, and rows.parquet leaves them out.
package encoded

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"

	"fewstep/data"
	"fewstep/data/bucket"
)

// PerShard is how many rows a shard of latents holds.
const PerShard = 256

// Manifest describes a folder of encodings.
type Manifest struct {
	Version    int           `json:"version"`
	Source     string        `json:"source"`      // address of the rows
	Rows       int           `json:"rows"`        // of the source
	Bad        int           `json:"bad"`         // rows whose images could not be decoded
	Decoder    int           `json:"decoder"`     // images.DecoderVersion
	Shapes     []bucket.Size `json:"shapes"`      // that images were made: a square, or aspect buckets
	Deviations bool          `json:"deviations"`  // the posterior's deviations are there too
	Tile       int           `json:"tile"`        // of the VAE; 0 = whole images
	VAE        string        `json:"vae"`         // hash of its weights
	Factor     int           `json:"factor"`      // side of an image / side of its latents
	Channels   int           `json:"channels"`    // of latents
	Latents    []string      `json:"latents"`     // shards, in the order of the rows
	Text       string        `json:"text"`        // hash of the text encoders' weights; "" = text is not encoded
	TextShape  []int         `json:"text_shape"`  // [tokens, width]
	PooledSize int           `json:"pooled_size"` //
	Texts      []string      `json:"texts"`       // shards; a caption's is that of its hash
}

const version = 2

// Names of tensors.
const (
	sizesName      = "sizes"
	latentsName    = "latents"
	deviationsName = "deviations"
	rowsName       = "rows"
)

// of names a tensor of one shape.
func of(name string, s bucket.Size) string { return fmt.Sprintf("%s.%dx%d", name, s.Width, s.Height) }

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
