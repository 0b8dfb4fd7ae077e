package encoded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"fewstep/data"
	"fewstep/data/images"
	"fewstep/internal/atomicfile"
	"fewstep/model/weights"

	"golang.org/x/sync/errgroup"
)

// Settings of Run.
type Settings struct {
	Dir        string
	Source     string // address of the set
	Resolution int
	Tile       int
	MaxBad     int   // images that may be undecodable
	Batch      int   // images decoded and encoded at a time
	TextLimit  int64 // bytes of text encodings beyond which captions are left to the runs; 0 = encode no text

	VAE        string // hash of the weights
	Latent     []int  // [h, w, C]
	Text       string
	TextShape  []int // [tokens, width]
	PooledSize int

	// Images makes latents of images [side·side·3] in [−1, 1]; Texts makes embeddings. They are called by one goroutine.
	Images func(images [][]float32) ([][]float32, error)
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
	Text       bool          `json:"text"` // captions were encoded
	TextBytes  int64         `json:"text_bytes"`
	Encoding   time.Duration `json:"encoding_ns"` // the device was at work
	Waiting    time.Duration `json:"waiting_ns"`  // the device waited for images
	Unfinished bool          `json:"unfinished"`  // the manifest is not written, because shards are missing
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
	s.Ranks = max(s.Ranks, 1)
	m := Manifest{Version: version, Source: s.Source, Rows: set.Len(), Decoder: images.DecoderVersion, Resolution: s.Resolution, Tile: s.Tile, VAE: s.VAE, Latent: s.Latent}
	r.Rows = set.Len()
	bad := map[int]string{}
	shards := (set.Len() + PerShard - 1) / PerShard
	for n := range shards {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		first, end := n*PerShard, min((n+1)*PerShard, set.Len())
		name, err := s.latentName(set, first, end)
		if err != nil {
			return r, err
		}
		m.Latents = append(m.Latents, name)
		path := filepath.Join(s.Dir, "latents", name+".safetensors")
		found, ok := readBad(path)
		switch {
		case ok:
			r.Present++
		case n%s.Ranks != s.Rank:
			r.Missing++
			continue
		default:
			if found, err = s.makeLatents(ctx, set, path, first, end, &r); err != nil {
				return r, err
			}
			r.Made++
		}
		for i, why := range found {
			bad[first+i] = why
		}
		if len(bad) > s.MaxBad {
			for i, why := range bad {
				return r, fmt.Errorf("%d images cannot be decoded, %d allowed; one is %s: %s; filter them out or allow more", len(bad), s.MaxBad, set.Row(i).Key, why)
			}
		}
		if s.Progress != nil {
			s.Progress("images", end, set.Len())
		}
	}
	r.Bad, m.Bad = len(bad), len(bad)
	if err := s.texts(ctx, set, &m, &r); err != nil {
		return r, err
	}
	if r.Missing > 0 {
		r.Unfinished = true
		return r, nil
	}
	return r, s.finish(set, m, bad)
}

// latentName hashes what a shard of latents is made of.
func (s *Settings) latentName(set *data.Set, first, end int) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "latents %d, decoder %d, VAE %s, %d pixels, tile %d, %v\n", version, images.DecoderVersion, s.VAE, s.Resolution, s.Tile, s.Latent)
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

// decoded is a batch of images on its way to the device.
type decoded struct {
	pixels [][]float32
	bad    map[int]string // by place in the shard
	place  []int          // of each image
	err    error
}

// makeLatents encodes rows first to end−1. While a batch is on the device, the next ones are decoded.
func (s *Settings) makeLatents(ctx context.Context, set *data.Set, path string, first, end int, r *Report) (map[int]string, error) {
	batches := make(chan decoded, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for range batches { // until the reader has ended: the source may be closed after this
		}
	}()
	go func() {
		defer close(batches)
		for from := first; from < end; from += s.Batch {
			select {
			case batches <- s.decode(set, first, from, min(from+s.Batch, end)):
			case <-ctx.Done():
				return
			}
		}
	}()
	size := 1
	for _, d := range s.Latent {
		size *= d
	}
	all, bad := make([]float32, (end-first)*size), map[int]string{}
	for {
		waited := time.Now()
		b, ok := <-batches
		r.Waiting += time.Since(waited)
		if !ok {
			break
		}
		if b.err != nil {
			return nil, b.err
		}
		for i, why := range b.bad {
			bad[i] = why
		}
		if len(b.pixels) == 0 {
			continue
		}
		began := time.Now()
		latents, err := s.Images(b.pixels)
		r.Encoding += time.Since(began)
		if err != nil {
			return nil, fmt.Errorf("rows from %d on: %w", first, err)
		}
		for i, z := range latents {
			if len(z) != size {
				return nil, fmt.Errorf("row %d: %d values of latents, want %d", first+b.place[i], len(z), size)
			}
			copy(all[b.place[i]*size:], z)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := json.Marshal(bad)
	if err != nil {
		return nil, err
	}
	t := weights.FromFloat32("latents", append([]int{end - first}, s.Latent...), all, weights.BF16)
	return bad, weights.Save(path, []weights.Tensor{t}, weights.Options{Metadata: map[string]string{
		"bad": string(list), "source": s.Source, "rows": fmt.Sprintf("%d to %d", first, end-1), "vae": s.VAE, "resolution": strconv.Itoa(s.Resolution)}, Finite: true})
}

// decode reads rows from to end−1 on all cores. A file that cannot be read is an error, an image that cannot be decoded not.
func (s *Settings) decode(set *data.Set, first, from, end int) decoded {
	out := decoded{bad: map[int]string{}}
	pixels, whys := make([][]float32, end-from), make([]string, end-from)
	var group errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	if set.Files().Remote() {
		workers = max(workers, 32)
	}
	group.SetLimit(workers)
	for i := range pixels {
		group.Go(func() error {
			content, err := set.Encoded(from + i)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil {
				pixels[i], err = data.Pixels(content, s.Resolution)
			}
			if err != nil {
				whys[i] = err.Error()
			}
			return nil
		})
	}
	out.err = group.Wait()
	for i, v := range pixels {
		if whys[i] != "" {
			out.bad[from-first+i] = whys[i]
			continue
		}
		out.pixels, out.place = append(out.pixels, v), append(out.place, from-first+i)
	}
	return out
}

// texts encodes captions, if their encodings are not too large together.
func (s *Settings) texts(ctx context.Context, set *data.Set, m *Manifest, r *Report) error {
	if s.TextLimit <= 0 {
		return nil
	}
	each := int64(2 * (s.TextShape[0]*s.TextShape[1] + s.PooledSize))
	if rows := int64(set.Len()); rows > 4*s.TextLimit/each { // captions repeat at times, not that often
		r.TextBytes = rows * each
		return nil
	}
	captions := set.Captions()
	if r.TextBytes = int64(len(captions)) * each; r.TextBytes > s.TextLimit {
		return nil
	}
	r.Text = true
	m.Text, m.TextShape, m.PooledSize = s.Text, s.TextShape, s.PooledSize
	shards := 1
	for shards*PerShard < len(captions) {
		shards *= 2 // so that one more caption changes one shard, mostly
	}
	of := make([][]string, shards)
	for _, c := range captions { // in text order
		n := textShard(c, shards)
		of[n] = append(of[n], c)
	}
	done := 0
	for n, list := range of {
		if err := ctx.Err(); err != nil {
			return err
		}
		h := sha256.New()
		fmt.Fprintf(h, "text %d, encoders %s, %v, %d\n%q\n", version, s.Text, s.TextShape, s.PooledSize, list)
		name := hex.EncodeToString(h.Sum(nil)[:16])
		m.Texts = append(m.Texts, name)
		path := filepath.Join(s.Dir, "text", name+".safetensors")
		done += len(list)
		if f, err := weights.Open(path); err == nil {
			f.Close()
			r.Present++
			continue
		}
		if n%s.Ranks != s.Rank {
			r.Missing++
			continue
		}
		if err := s.makeTexts(path, list); err != nil {
			return err
		}
		r.Made++
		if s.Progress != nil {
			s.Progress("captions", done, len(captions))
		}
	}
	return nil
}

func (s *Settings) makeTexts(path string, captions []string) error {
	var text, pooled []float32
	for part := range slices.Chunk(captions, 64) {
		a, b, err := s.Texts(part)
		if err != nil {
			return err
		}
		for i := range part {
			text, pooled = append(text, a[i]...), append(pooled, b[i]...)
		}
	}
	list, err := json.Marshal(captions)
	if err != nil {
		return err
	}
	return weights.Save(path, []weights.Tensor{
		weights.FromFloat32("text", append([]int{len(captions)}, s.TextShape...), text, weights.BF16),
		weights.FromFloat32("pooled", []int{len(captions), s.PooledSize}, pooled, weights.BF16),
	}, weights.Options{Metadata: map[string]string{"captions": string(list), "encoders": s.Text}, Finite: true})
}

// finish writes the rows and, last, the manifest.
func (s *Settings) finish(set *data.Set, m Manifest, bad map[int]string) error {
	if len(bad) == set.Len() {
		return fmt.Errorf("%s: no image can be decoded", s.Source)
	}
	next := 0
	err := writeRows(filepath.Join(s.Dir, data.EncodedRows), s.Source, set.Files(), func() (int, bool) {
		for next < set.Len() && bad[next] != "" {
			next++
		}
		next++
		return next - 1, next <= set.Len()
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
