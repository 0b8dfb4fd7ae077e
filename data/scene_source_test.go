package data

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"fewstep/data/images"
)

// scenesOf writes a spec beside the sprites of the repository.
func scenesOf(t *testing.T, spec string) string {
	t.Helper()
	dir := t.TempDir()
	raw, err := os.ReadFile("../assets/scenes/sprites.zip")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"sprites.zip": raw, "x.scenes.json": []byte(spec)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "x.scenes.json")
}

const fewScenes = `{"scenes": 1, "sprites": "sprites.zip", "side": 32, "seed": 1, "samples": {"train": 20, "eval": 10, "reference": 5}}`

func TestScenesAreASet(t *testing.T) {
	path := scenesOf(t, fewScenes)
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != 35 {
		t.Fatalf("%d rows, want 35", s.Len())
	}
	held, err := Open(t.Context(), path, Options{Split: "eval", CacheSize: 32})
	if err != nil {
		t.Fatal(err)
	}
	if held.Len() != 10 || !reflect.DeepEqual(held.Row(3), s.Row(23)) || held.Row(3).Key != "eval/3" {
		t.Errorf("the split has %d rows, row 3 is %+v, of all %+v", held.Len(), held.Row(3), s.Row(23))
	}
	want, err := s.Image(23, 32)
	if err != nil {
		t.Fatal(err)
	}
	cached, err := held.Image(3, 32)
	if err != nil || !slices.Equal(want, cached) {
		t.Errorf("an image kept in memory is another one (%v)", err)
	}
	file, err := s.Encoded(23)
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := scalePixels(img.Pix); !slices.Equal(want, got) {
		t.Error("the encoded file has other pixels than the image")
	}
	half, err := s.WithoutHalf(23, 32)
	if err != nil || len(half) != len(want) || slices.Equal(want, half) {
		t.Errorf("leaving out objects changed nothing (%v)", err)
	}
}

// A set's digest stands for what would be drawn.
func TestScenesDigest(t *testing.T) {
	digest := func(spec string) string {
		s, err := Open(t.Context(), scenesOf(t, spec), Options{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := digest(fewScenes)
	if again := digest(fewScenes); again != first {
		t.Error("the same spec has two digests")
	}
	if other := digest(`{"scenes": 1, "sprites": "sprites.zip", "side": 64, "seed": 1, "samples": {"train": 20, "eval": 10, "reference": 5}}`); other == first {
		t.Error("scenes of another size have the same digest")
	}
}

func TestWithoutHalfWantsScenes(t *testing.T) {
	s, err := Open(t.Context(), "testdata/emoji.parquet", Options{Split: "eval"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WithoutHalf(0, 64); err == nil {
		t.Error("an object was left out of a picture")
	}
}
