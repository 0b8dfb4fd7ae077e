package data

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

func testPNG(t testing.TB, width, height int, at func(x, y int) color.Color) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.Set(x, y, at(x, y))
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func plain(c color.Color) func(int, int) color.Color {
	return func(int, int) color.Color { return c }
}

var red = color.NRGBA{255, 0, 0, 255}

func testRecords(t testing.TB) []Record {
	t.Helper()
	image := testPNG(t, 4, 4, plain(red))
	return []Record{
		{Key: "a", Image: image, Caption: "red apple, noto style", Kind: "apple", Coarse: "fruit", Concept: "red apple", Style: "noto", Split: "train", Weight: 1},
		{Key: "b", Image: image, Caption: "bear", Coarse: "animal", Concept: "bear", Style: "noto", Split: "train", Weight: 0.5},
		{Key: "c", Image: image, Caption: "ball", Split: "eval", Weight: 2.5},
	}
}

func writeRecords(t testing.TB, records []Record) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.parquet")
	if err := WriteParquet(path, records); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenParquet(t *testing.T) {
	records := testRecords(t)
	path := writeRecords(t, records)
	for _, cache := range []int{0, 4} {
		set, err := Open(t.Context(), path, Options{CacheSize: cache})
		if err != nil {
			t.Fatal(err)
		}
		if set.Len() != 3 || len(set.Bad()) != 0 {
			t.Fatalf("%d rows, %d bad", set.Len(), len(set.Bad()))
		}
		for i, r := range records {
			want := Row{Key: r.Key, Caption: r.Caption, Kind: r.Kind, Coarse: r.Coarse, Concept: r.Concept, Style: r.Style, Split: r.Split, Weight: r.Weight}
			if !reflect.DeepEqual(set.Row(i), want) {
				t.Errorf("row %d: %+v, want %+v", i, set.Row(i), want)
			}
		}
		pixels, err := set.Image(0, 4)
		if err != nil {
			t.Fatal(err)
		}
		if len(pixels) != 4*4*3 || pixels[0] != 1 || pixels[1] != -1 || pixels[2] != -1 {
			t.Errorf("%d values, first %v, want 48 of red", len(pixels), pixels[:3])
		}
		if _, err := set.Image(3, 4); err == nil {
			t.Error("row 3 of 3 accepted")
		}
		if _, err := set.Image(0, 0); err == nil {
			t.Error("size 0 accepted")
		}
	}
	all, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := all.Captions(), []string{"animal", "apple", "ball", "bear", "fruit", "red apple, noto style"}; !slices.Equal(got, want) {
		t.Errorf("captions %q, want %q", got, want)
	}
	eval, err := Open(t.Context(), path, Options{Split: "eval"})
	if err != nil {
		t.Fatal(err)
	}
	if eval.Len() != 1 || eval.Row(0).Key != "c" {
		t.Errorf("eval: %d rows, first %s", eval.Len(), eval.Row(0).Key)
	}
	if _, err := Open(t.Context(), path, Options{Split: "test"}); err == nil || !strings.Contains(err.Error(), `"test"`) {
		t.Errorf("unknown split: %v", err)
	}
}

// TestOpenOtherColumns reads the layout of Hugging Face image data sets: a group
// of bytes and path, and "text".
// The rows of a split are those that Open finds of it, with their images.
func TestOnly(t *testing.T) {
	for _, size := range []int{0, 2} {
		all, err := Open(t.Context(), writeRecords(t, testRecords(t)), Options{CacheSize: size})
		if err != nil {
			t.Fatal(err)
		}
		eval, err := all.Only("eval")
		if err != nil || eval.Len() != 1 || eval.Row(0).Key != "c" {
			t.Fatalf("%d rows, %v", eval.Len(), err)
		}
		one, _ := eval.Encoded(0)
		if same, err := all.Encoded(2); err != nil || !bytes.Equal(one, same) {
			t.Errorf("%d bytes and %d, %v", len(one), len(same), err)
		}
		train, err := all.Only("train")
		if err != nil || train.Len() != 2 || train.Row(1).Key != "b" || len(train.Captions()) != 5 || all.Len() != 3 {
			t.Fatalf("%d rows, %v", train.Len(), err)
		}
		a, err := train.Image(1, 2)
		b, err2 := all.Image(1, 2)
		if err != nil || err2 != nil || !slices.Equal(a, b) {
			t.Errorf("images %v and %v, %v, %v", a, b, err, err2)
		}
		if _, err := all.Only("test"); err == nil || !strings.Contains(err.Error(), `"test"`) || !strings.Contains(err.Error(), "images.parquet") {
			t.Errorf("%v", err)
		}
	}
}

func TestOpenOtherColumns(t *testing.T) {
	type picture struct {
		Bytes []byte `parquet:"bytes"`
		Path  string `parquet:"path"`
	}
	type row struct {
		Text   string  `parquet:"text,optional"`
		Image  picture `parquet:"image"`
		Weight float64 `parquet:"weight"`
		Extra  int64   `parquet:"extra"`
	}
	path := filepath.Join(t.TempDir(), "hf.parquet")
	image := testPNG(t, 4, 4, plain(red))
	if err := parquet.WriteFile(path, []row{{"a cat", picture{image, "cat.png"}, 0.25, 7}}); err != nil {
		t.Fatal(err)
	}
	set, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Row{Key: "cat.png", Caption: "a cat", Weight: 0.25}); !reflect.DeepEqual(set.Row(0), want) {
		t.Errorf("got %+v, want %+v", set.Row(0), want)
	}

	if err := parquet.WriteFile(path, []struct {
		Text string `parquet:"text"`
	}{{"x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "no image column") {
		t.Errorf("no image column: %v", err)
	}
	if err := parquet.WriteFile(path, []struct {
		Image []byte `parquet:"image"`
	}{{image}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "no caption column") {
		t.Errorf("no caption column: %v", err)
	}
	if err := parquet.WriteFile(path, []struct {
		Image   []byte `parquet:"image"`
		Caption int64  `parquet:"caption"`
	}{{image, 3}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "column caption") {
		t.Errorf("numeric caption: %v", err)
	}
}

func TestOpenBadRows(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]Record)
		want   string
	}{
		"empty caption":   {func(r []Record) { r[1].Caption = " \t" }, "first: b: empty caption"},
		"negative weight": {func(r []Record) { r[2].Weight = -1 }, "first: c: weight -1"},
		"weight NaN":      {func(r []Record) { r[2].Weight = float32(math.NaN()) }, "first: c: weight NaN"},
		"not an image":    {func(r []Record) { r[1].Image = []byte("GIF89a") }, "1 of 3 rows cannot be used, 0 allowed; first: b:"},
		"no image":        {func(r []Record) { r[1].Image = nil }, "first: b: image is empty"},
		"cut image":       {func(r []Record) { r[1].Image = r[1].Image[:50] }, "first: b:"},
	} {
		records := testRecords(t)
		c.change(records)
		path := writeRecords(t, records)
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	records := testRecords(t)
	records[1].Image = []byte("broken")
	set, err := Open(t.Context(), writeRecords(t, records), Options{MaxBad: 1, CacheSize: 4})
	if err != nil {
		t.Fatal(err)
	}
	if set.Len() != 2 || set.Row(1).Key != "c" || len(set.Bad()) != 1 || set.Bad()[0].Key != "b" {
		t.Errorf("%d rows, bad %v", set.Len(), set.Bad())
	}
	if _, err := set.Image(1, 4); err != nil {
		t.Error(err)
	}
	if _, err := Open(t.Context(), writeRecords(t, nil), Options{}); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("no rows: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none.parquet"), Options{}); err == nil || !strings.Contains(err.Error(), "none.parquet") {
		t.Errorf("no file: %v", err)
	}
}

// TestOpenDamagedParquet cuts and changes a file at many places. Open must give
// an error or rows, and never panic; a cut file is always an error.
func TestOpenDamagedParquet(t *testing.T) {
	path := writeRecords(t, testRecords(t))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 60 {
		cut := len(good) * n / 60
		if err := os.WriteFile(path, good[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("cut to %d of %d bytes: %v", cut, len(good), err)
		}
	}
	for range 400 {
		bad := bytes.Clone(good)
		for range 1 + rng.IntN(3) {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), path, Options{}); err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("error does not name the file: %v", err)
		}
	}
}

func TestOpenFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("empty folder: %v", err)
	}
	var photo bytes.Buffer
	if err := jpeg.Encode(&photo, image.NewGray(image.Rect(0, 0, 8, 8)), nil); err != nil {
		t.Fatal(err)
	}
	write("b/photo.JPG", photo.Bytes())
	write("b/photo.txt", []byte("a dark photo\n"))
	write("apple.png", testPNG(t, 2, 2, plain(red)))
	write("apple.txt", []byte(" red apple "))
	write("notes.md", []byte("ignored"))
	set, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if set.Len() != 2 || !reflect.DeepEqual(set.Row(0), Row{Key: "apple", Caption: "red apple", Weight: 1}) || set.Row(1).Key != "b/photo" {
		t.Errorf("%d rows: %+v %+v", set.Len(), set.Row(0), set.Row(1))
	}
	// Parquet files in a folder are its shards.
	shards := t.TempDir()
	for i, records := range [][]Record{testRecords(t)[:2], testRecords(t)[2:]} {
		if err := WriteParquet(filepath.Join(shards, []string{"train-00000.parquet", "train-00001.parquet"}[i]), records); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Open(t.Context(), shards, Options{}); err != nil || s.Len() != 3 || s.Row(0).Key != "train-00000/a" || s.Row(2).Key != "train-00001/c" || s.Row(2).Weight != 2.5 {
		t.Errorf("%v", err)
	} else if v, err := s.Image(2, 4); err != nil || v[0] != 1 {
		t.Errorf("%v, %v", v, err)
	}
	if err := os.WriteFile(filepath.Join(shards, "train-00002.parquet"), []byte("PAR1 no"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), shards, Options{}); err == nil || !strings.Contains(err.Error(), "train-00002.parquet") {
		t.Errorf("a damaged shard: %v", err)
	}
	// Images stay in the folder and are read when they are wanted.
	digest, err := set.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := set.Image(0, 2); err != nil || v[0] != 1 || v[1] != -1 {
		t.Errorf("%v, %v", v, err)
	}
	if err := os.Remove(filepath.Join(dir, "apple.png")); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"Image":   func() error { _, err := set.Image(0, 2); return err },
		"Encoded": func() error { _, err := set.Encoded(0); return err },
		"Digest":  func() error { _, err := set.Digest(); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "apple.png") {
			t.Errorf("%s of an image that is gone: %v", what, err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "apple.png")); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), dir, Options{MaxBad: 1}); err != nil || s.Len() != 1 || s.Bad()[0].Key != "apple" {
		t.Errorf("a link to nothing: %v", err)
	}
	if _, err := Open(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "apple.png") {
		t.Errorf("a link to nothing: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "apple.png")); err != nil {
		t.Fatal(err)
	}
	write("apple.png", testPNG(t, 2, 2, plain(red)))
	if again, err := set.Digest(); err != nil || again != digest {
		t.Errorf("digest %s, then %s, %v", digest, again, err)
	}
	write("lone.webp", nil)
	if _, err := Open(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "lone.webp") || !strings.Contains(err.Error(), "no caption") {
		t.Errorf("no caption: %v", err)
	}
	write("lone.txt", []byte("\n"))
	if _, err := Open(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "empty caption") {
		t.Errorf("empty caption: %v", err)
	}
	write("lone.txt", []byte("nothing"))
	if _, err := Open(t.Context(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "lone: image is empty") {
		t.Errorf("empty image: %v", err)
	}
}

// TestImageCropAndResize: the middle square of a wide image, on white, reduced
// without aliasing.
func TestImageCropAndResize(t *testing.T) {
	wide := testPNG(t, 60, 20, func(x, y int) color.Color {
		switch {
		case x < 20:
			return red
		case x >= 40:
			return color.NRGBA{0, 0, 255, 255}
		case (x+y)%2 == 0:
			return color.NRGBA{0, 0, 0, 255}
		}
		return color.NRGBA{0, 255, 0, 0} // clear: white below
	})
	set, err := Open(t.Context(), writeRecords(t, []Record{{Image: wide, Caption: "stripes", Weight: 1}}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	pixels, err := set.Image(0, 5)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range pixels {
		if math.Abs(float64(v)) > 0.08 {
			t.Fatalf("value %d is %v, want the mean of black and white", i, v)
		}
	}
	large, err := set.Image(0, 40)
	if err != nil || len(large) != 40*40*3 {
		t.Fatalf("enlarged: %d values, %v", len(large), err)
	}
}
