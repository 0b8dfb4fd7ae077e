package encoded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/images"
	"fewstep/data/scaletest"
	"fewstep/model/weights"
)

const rows = 3*PerShard + 40

// folder holds images of one colour each; image 300 is broken.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range rows {
		captioned(t, dir, i, images.New(8, 8), caption(i))
	}
	broken := filepath.Join(dir, "0300.png")
	raw, err := os.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, raw[:30], 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// captioned writes image i of a folder, all of whose values are i, with its caption beside it.
func captioned(t *testing.T, dir string, i int, m images.RGB, caption string) {
	t.Helper()
	for k := range m.Pix {
		m.Pix[k] = uint8(i)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m.Image()); err != nil {
		t.Fatal(err)
	}
	for suffix, content := range map[string][]byte{".png": b.Bytes(), ".txt": []byte(caption)} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d%s", i, suffix)), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func caption(i int) string { return fmt.Sprintf("picture %d", i/2) } // two of a kind

// settings encode the mean of an image to latents [2, 1, 1], and a caption's length to text [1, 2].
func settings(dir, source string) Settings {
	return Settings{Dir: dir, Source: source, Shapes: []bucket.Size{{Width: 8, Height: 8}}, Factor: 8, Channels: 2, MaxBad: 1, Batch: 7, TextLimit: 1 << 20, VAE: "v1", Text: "t1", TextShape: []int{1, 2}, PooledSize: 1,
		Images: func(images [][]float32, _ bucket.Size) (mean, deviations [][]float32, err error) {
			for _, v := range images {
				mean, deviations = append(mean, []float32{v[0], -v[0]}), append(deviations, []float32{1, 2})
			}
			return mean, deviations, nil
		},
		Texts: func(captions []string) (text, pooled [][]float32, err error) {
			for _, c := range captions {
				n := float32(len(c))
				text, pooled = append(text, []float32{n, n / 2}), append(pooled, []float32{float32(c[len(c)-1])})
			}
			return text, pooled, nil
		}}
}

func encode(t *testing.T, s Settings) (Report, error) {
	t.Helper()
	set, err := data.Open(t.Context(), s.Source, data.Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	return Run(context.Background(), set, s)
}

// The bytes are the same whatever stopped the work, and for 1, 2 and 8 processes.
func TestSameBytes(t *testing.T) {
	source := folder(t)
	whole := settings(t.TempDir(), source)
	r, err := encode(t, whole)
	if err != nil || r.Made < 5 || r.Present != 0 || r.Bad != 1 || !r.Text || r.Unfinished {
		t.Fatalf("%+v, %v", r, err)
	}
	want := scaletest.Digests(t, whole.Dir)
	for _, ranks := range []int{1, 2, 8} {
		s := settings(t.TempDir(), source)
		s.Ranks = ranks
		made, stops := 0, errors.New("killed")
		for round := 0; ; round++ {
			if round > 60 {
				t.Fatal("no end")
			}
			images, calls := whole.Images, 0
			s.Rank = round % ranks
			s.Images = func(v [][]float32, shape bucket.Size) (mean, deviations [][]float32, err error) {
				if calls++; calls > 50 { // in the second shard
					return nil, nil, stops
				}
				return images(v, shape)
			}
			r, err := encode(t, s)
			if err != nil && !errors.Is(err, stops) {
				t.Fatal(err)
			}
			made += r.Made
			if err == nil && !r.Unfinished {
				break
			}
		}
		if got := scaletest.Digests(t, s.Dir); !maps.Equal(got, want) {
			t.Errorf("%d ranks: %d files that differ from the %d of one process", ranks, len(got), len(want))
		}
	}
}

// What has changed is made again, and nothing else.
func TestWhatIsMadeAgain(t *testing.T) {
	source := folder(t)
	s := settings(t.TempDir(), source)
	if _, err := encode(t, s); err != nil {
		t.Fatal(err)
	}
	check := func(what string, latents, texts int) {
		t.Helper()
		before := scaletest.Digests(t, s.Dir)
		r, err := encode(t, s)
		if err != nil {
			t.Fatal(what, err)
		}
		made := map[string]int{}
		for name := range scaletest.Digests(t, s.Dir) {
			if _, ok := before[name]; !ok {
				made[filepath.Dir(name)]++
			}
		}
		if made["latents"] != latents || made["text"] != texts || r.Made != latents+texts {
			t.Errorf("%s: %v made, %+v; want %d of latents, %d of text", what, made, r, latents, texts)
		}
	}
	check("nothing", 0, 0)
	if err := os.WriteFile(filepath.Join(source, "0005.txt"), []byte("another"), 0o666); err != nil {
		t.Fatal(err)
	}
	check("a caption", 0, 1)
	var b bytes.Buffer
	if err := png.Encode(&b, images.New(9, 9).Image()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "0600.png"), b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	check("an image", 1, 0)
	s.VAE = "v2"
	check("the VAE", 4, 0)
	s.Text = "t2"
	check("the text encoders", 0, 2)
	// A shard that was damaged or lost is made again.
	m, err := ReadManifest(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	lost := filepath.Join(s.Dir, "latents", m.Latents[2]+".safetensors")
	raw, err := os.ReadFile(lost)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lost, raw[:len(raw)-4], 0o666); err != nil {
		t.Fatal(err)
	}
	if r, err := encode(t, s); err != nil || r.Made != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if again, err := os.ReadFile(lost); err != nil || !bytes.Equal(again, raw) {
		t.Error("the damaged shard is another")
	}
}

func TestStore(t *testing.T) {
	s := settings(t.TempDir(), folder(t))
	if _, err := data.Open(t.Context(), s.Dir, data.Options{}); err == nil {
		t.Error("an empty folder is a source")
	}
	if _, err := encode(t, s); err != nil {
		t.Fatal(err)
	}
	set, err := data.Open(t.Context(), s.Dir, data.Options{}) // nothing is decoded, and the broken image is gone
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	store, err := Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if set.Len() != rows-1 || set.EncodedFolder() != s.Dir || store.Bad != 1 {
		t.Fatal(set.Len(), set.EncodedFolder(), store.Manifest)
	}
	for _, i := range []int{0, 299, 300, set.Len() - 1} {
		number := i
		if i >= 300 {
			number++
		}
		if set.Chosen(i) != number || set.Row(i).Key != fmt.Sprintf("%04d", number) {
			t.Fatal(i, set.Chosen(i), set.Row(i))
		}
		z, _, _, err := store.Latent(set.Chosen(i))
		want := float64(uint8(number))/127.5 - 1
		if err != nil || len(z) != 2 || math.Abs(float64(z[0])-want) > 0.004 || z[1] != -z[0] {
			t.Errorf("row %d: %v, %v, want %g", i, z, err, want)
		}
		text, pooled, err := store.Embedding(set.Row(i).Caption)
		c := caption(number)
		if err != nil || !slices.Equal(text, []float32{float32(len(c)), float32(len(c)) / 2}) || pooled[0] != float32(c[len(c)-1]) {
			t.Errorf("%q: %v %v, %v", c, text, pooled, err)
		}
	}
	if _, _, err := store.Embedding("never seen"); err == nil || !strings.Contains(err.Error(), "never seen") {
		t.Error(err)
	}
	if _, _, _, err := store.Latent(rows); err == nil {
		t.Error("a row that is not there has latents")
	}
	// Others read the shards by their documented schema.
	f, err := weights.Open(filepath.Join(s.Dir, "latents", store.Latents[3]+".safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if z, err := f.Tensor("latents.8x8"); err != nil || z.DType != weights.BF16 || !slices.Equal(z.Shape, []int{40, 1, 1, 2}) {
		t.Errorf("%+v, %v", z.Shape, err)
	}
	s.MaxBad, s.Dir = 0, t.TempDir()
	if _, err := encode(t, s); err == nil || !strings.Contains(err.Error(), "0300") {
		t.Error(err)
	}
	s.MaxBad, s.TextLimit = 1, 10
	if r, err := encode(t, s); err != nil || r.Text || r.TextBytes == 0 {
		t.Errorf("text beyond its limit: %+v, %v", r, err)
	}
}
