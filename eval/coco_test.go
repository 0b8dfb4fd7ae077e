package eval

import (
	"archive/zip"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// varied is a picture of random patches.
func varied(t *testing.T, seed uint64) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	img := image.NewRGBA(image.Rect(0, 0, 48, 40))
	for y := range 5 {
		for x := range 6 {
			c := color.RGBA{uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32()), 255}
			draw.Draw(img, image.Rect(8*x, 8*y, 8*x+8, 8*y+8), image.NewUniform(c), image.Point{}, draw.Src)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// COCO's pictures are the same real images as a folder and as the zip file that it is distributed in: those that the JSON
// names, in its order, and no others.
func TestCOCOAsItIsDistributed(t *testing.T) {
	s := random(t)
	dir := t.TempDir()
	folder, archive := filepath.Join(dir, "val2014"), filepath.Join(dir, "val2014.zip")
	if err := os.Mkdir(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(file)
	const named = 194
	s.Captions.Files = nil
	for i := range named + 6 { // the last ones are in no caption
		name := fmt.Sprintf("COCO_val2014_%012d.png", i)
		if err := os.WriteFile(filepath.Join(folder, name), varied(t, uint64(i)), 0o644); err != nil {
			t.Fatal(err)
		}
		w, err := z.Create("val2014/" + name)
		if err == nil {
			_, err = w.Write(varied(t, uint64(i)))
		}
		if err != nil {
			t.Fatal(err)
		}
		if i < named {
			s.Captions.Files = append([]string{name}, s.Captions.Files...)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s.Reference = folder
	want := evaluated(t, s)
	s.Reference = archive
	got := evaluated(t, s)
	if len(want.Rows) == 0 || !reflect.DeepEqual(got.Rows, want.Rows) {
		t.Errorf("as a zip file: %+v, as a folder: %+v", got.Rows, want.Rows)
	}
	if facts := fmt.Sprint(got.Facts); !strings.Contains(facts, fmt.Sprintf("%d of %s", named, archive)) {
		t.Errorf("%s", facts)
	}
}
