package encoded

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/images"
	"fewstep/data/source"
	"fewstep/internal/atomicfile"
	"fewstep/model/clip"
	"fewstep/model/weights"
)

// Settings of Run.
type Settings struct {
	Dir        string
	Source     string        // address of the set
	Shapes     []bucket.Size // that images are made: one square, or aspect buckets
	Deviations bool          // keep the posterior's standard deviations too
	Tile       int
	MaxBad     int   // images that may be undecodable
	Batch      int   // images decoded and encoded at a time
	TextLimit  int64 // bytes of text encodings beyond which captions are left to the runs; 0 = encode no text

	VAE        string // hash of the weights
	Factor     int    // side of an image / side of its latents
	Channels   int    // of latents
	Text       string
	TextShape  []int // [tokens, width]
	PooledSize int

	// Images makes scaled latents of images [height·width·3] in [−1, 1], and where Deviations are wanted their deviations;
	// Texts makes embeddings. Neither is called while the other or the same is at work.
	Images func(images [][]float32, shape bucket.Size) (mean, deviations [][]float32, err error)
	Texts  func(captions []string) (text, pooled [][]float32, err error)

	// Rank of Ranks processes makes every Ranks-th shard. Whichever finds all shards there writes the manifest.
	Rank, Ranks int
	Progress    func(what string, done, total int) // may be nil
}

// Report is what Run did.
type Report struct {
	Rows       int           `json:"rows"`
	Made       int           `json:"made"`    // shards
	Present    int           `json:"present"` // shards that were there before
	Missing    int           `json:"missing"` // shards that other ranks have not made yet
	Bad        int           `json:"bad"`
	Images     int           `json:"images"`   // that were encoded
	Enlarged   int           `json:"enlarged"` // images of the whole set that are smaller than their shape, once all shards are there
	Small      string        `json:"small"`    // one of them
	Took       time.Duration `json:"took_ns"`
	Text       bool          `json:"text"` // captions were encoded
	TextBytes  int64         `json:"text_bytes"`
	Encoding   time.Duration `json:"encoding_ns"`                      // the device was at work
	Waiting    time.Duration `json:"waiting_ns"`                       // the device waited for images, or for the disk
	Bare       float64       `json:"bare_images_per_second,omitempty"` // of the device, where it was measured: see Bare
	Cuts       *clip.Cuts    `json:"cuts,omitempty"`                   // captions that the text encoders see the beginning of, where they were counted
	Unfinished bool          `json:"unfinished"`                       // the manifest is not written, because shards are missing
}

// Speed is the images that were encoded a second, of all the time that their shards took.
func (r *Report) Speed() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Images) / r.Took.Seconds()
}

// Run encodes what is not there yet of a set, which may be Unchecked.
func Run(ctx context.Context, set *data.Set, s Settings) (r Report, err error) {
	files := set.Files()
	if files == nil || files.Len() != set.Len() {
		return r, errors.New("a whole source of files is encoded, not a part or a drawn one")
	}
	for _, dir := range []string{"latents", "text"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, dir), 0o777); err != nil {
			return r, err
		}
	}
	if len(s.Shapes) == 0 || s.Factor < 1 || s.Channels < 1 {
		return r, errors.New("no shape, factor or channels of latents are given")
	}
	s.Ranks = max(s.Ranks, 1)
	m := Manifest{Version: version, Source: s.Source, Rows: set.Len(), Decoder: images.DecoderVersion, Shapes: s.Shapes, Deviations: s.Deviations,
		Tile: s.Tile, VAE: s.VAE, Factor: s.Factor, Channels: s.Channels}
	r.Rows = set.Len()
	bad := map[int]string{}
	found := func(n int, of map[int]string) error {
		for i, why := range of {
			bad[n*PerShard+i] = why
		}
		if len(bad) > s.MaxBad {
			i := slices.Min(slices.Collect(maps.Keys(bad)))
			return fmt.Errorf("%d images cannot be decoded, %d allowed; one is %s: %s; filter them out or allow more", len(bad), s.MaxBad, set.Row(i).Key, bad[i])
		}
		return nil
	}
	path := func(n int) string { return filepath.Join(s.Dir, "latents", m.Latents[n]+".safetensors") }
	var wanted []int
	for n := range (set.Len() + PerShard - 1) / PerShard {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		name, err := s.latentName(set, n*PerShard, min((n+1)*PerShard, set.Len()))
		if err != nil {
			return r, err
		}
		m.Latents = append(m.Latents, name)
		switch of, ok := readBad(path(n)); {
		case ok:
			r.Present++
			if err := found(n, of); err != nil {
				return r, err
			}
		case n%s.Ranks != s.Rank:
			r.Missing++
		default:
			wanted = append(wanted, n)
		}
	}
	began := time.Now()
	err = s.makeLatents(ctx, set, wanted, path, &r, func(n int, of map[int]string) error {
		r.Made++
		if s.Progress != nil {
			s.Progress("images", min((n+1)*PerShard, set.Len()), set.Len())
		}
		return found(n, of)
	})
	if r.Took = time.Since(began); err != nil {
		return r, err
	}
	r.Bad, m.Bad = len(bad), len(bad)
	if err := s.texts(ctx, set, &m, &r); err != nil {
		return r, err
	}
	if r.Missing > 0 {
		r.Unfinished = true
		return r, nil
	}
	err = s.finish(set, m, bad, &r)
	return r, err
}

// latentName hashes what a shard of latents is made of.
func (s *Settings) latentName(set *data.Set, first, end int) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "latents %d, decoder %d, VAE %s, %v, tile %d, factor %d, %d channels, deviations %v\n", version, images.DecoderVersion, s.VAE, s.Shapes, s.Tile, s.Factor, s.Channels, s.Deviations)
	for i := first; i < end; i++ {
		id, err := set.Files().Identity(i)
		if errors.Is(err, fs.ErrNotExist) {
			id = "gone"
		} else if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q\n", id)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// readBad reads which rows of a shard that is there are bad.
func readBad(path string) (bad map[int]string, ok bool) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	if err := json.Unmarshal([]byte(f.Metadata()["bad"]), &bad); err != nil {
		return nil, false
	}
	return bad, true
}

// finish writes the rows and, last, the manifest, and counts the images that were enlarged.
func (s *Settings) finish(set *data.Set, m Manifest, bad map[int]string, r *Report) error {
	if len(bad) == set.Len() {
		return fmt.Errorf("%s: no image can be decoded", s.Source)
	}
	sizes := s.sizes(m)
	files, next := set.Files(), 0
	err := source.WriteSelection(filepath.Join(s.Dir, data.EncodedRows), s.Source, files, []string{"encoded"}, func() (source.Selected, error) {
		for next < set.Len() && bad[next] != "" {
			next++
		}
		if next == set.Len() {
			return source.Selected{}, io.EOF
		}
		row := files.Select(next)
		size, err := sizes(next)
		row.Width, row.Height = int32(size.Width), int32(size.Height)
		next++
		if err != nil {
			return row, err
		}
		shape := s.Shapes[bucket.Choose(size, s.Shapes)]
		fit, err := bucket.FitTo(size, shape)
		if fit.Enlarges() {
			if r.Enlarged++; r.Enlarged == 1 {
				r.Small = fmt.Sprintf("%s of %v for %v", row.Key, size, shape)
			}
		}
		return row, err
	})
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.Dir, data.EncodedManifest), func(w io.Writer) error {
		_, err := w.Write(append(raw, '\n'))
		return err
	})
}

// sizes gives the sizes of images from the shards, which are asked for in the order of the rows.
func (s *Settings) sizes(m Manifest) func(row int) (bucket.Size, error) {
	var content []byte
	have := -1
	return func(row int) (size bucket.Size, err error) {
		if n := row / PerShard; n != have {
			f, err := weights.Open(filepath.Join(s.Dir, "latents", m.Latents[n]+".safetensors"))
			if err != nil {
				return size, err
			}
			t, err := f.Tensor(sizesName)
			if err == nil {
				content, err = t.Bytes()
				content = slices.Clone(content)
			}
			if err := errors.Join(err, f.Close()); err != nil {
				return size, err
			}
			have = n
		}
		at := row % PerShard * 8
		if len(content) < at+8 {
			return size, fmt.Errorf("%s: %d sizes", m.Latents[have], len(content)/8)
		}
		return bucket.Size{Width: int(binary.LittleEndian.Uint32(content[at:])), Height: int(binary.LittleEndian.Uint32(content[at+4:]))}, nil
	}
}
