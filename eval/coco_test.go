package eval

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fewstep/data/scaletest"
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
	// So are tars, by a pattern, in a folder and in storage; a file is found by its key.
	tars := filepath.Join(dir, "tars")
	if err := os.Mkdir(tars, 0o777); err != nil {
		t.Fatal(err)
	}
	for shard := range 2 {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := shard * 100; i < (shard+1)*100; i++ {
			content := varied(t, uint64(i))
			err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("COCO_val2014_%012d.png", i), Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
			if err == nil {
				_, err = w.Write(content)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tars, fmt.Sprintf("%05d.tar", shard)), b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(scaletest.Handler(tars))
	defer server.Close()
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_S3": server.URL, "AWS_REGION": "us-east-1", "AWS_NO_SIGN_REQUEST": "true", "XDG_CACHE_HOME": t.TempDir()} {
		t.Setenv(name, value)
	}
	first := readReal(t, folder, s.Captions.Files)
	for _, address := range []string{tars, filepath.Join(tars, "{00000..00001}.tar"), "s3://scale/*.tar", "s3://scale/{00000..00001}.tar"} {
		if !slices.Equal(readReal(t, address, s.Captions.Files), first) {
			t.Errorf("%s: other images than the folder's", address)
		}
	}
	if facts := fmt.Sprint(got.Facts); !strings.Contains(facts, fmt.Sprintf("%d of %s", named, archive)) {
		t.Errorf("%s", facts)
	}
}

// readReal reads all real images.
func readReal(t *testing.T, path string, named []string) (all []string) {
	t.Helper()
	list, err := openReal(t.Context(), path, named)
	if err != nil {
		t.Fatal(err)
	}
	defer list.close()
	for i := range list.n {
		raw, err := list.read(i)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(raw))
	}
	if len(all) != len(named) {
		t.Errorf("%s: %d of %d images", path, len(all), len(named))
	}
	return all
}
