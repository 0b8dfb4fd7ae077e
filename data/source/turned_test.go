package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"path/filepath"
	"testing"

	"fewstep/data/images"

	"github.com/parquet-go/parquet-go"
)

// img2dataset keeps an image's orientation in the column "exif" alone: wherever that stands, the image is turned by it.
func TestOrientationInAColumn(t *testing.T) {
	m := image.NewNRGBA(image.Rect(0, 0, 3, 2))
	for i := range 6 {
		m.Set(i%3, i/3, color.NRGBA{uint8(40 * i), 0, 0, 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	p := b.String()
	words := []string{"", "Horizontal (normal)", "Mirrored horizontal", "Rotated 180", "Mirrored vertical", "Mirrored horizontal then rotated 90 CCW",
		"Rotated 90 CW", "Mirrored horizontal then rotated 90 CW", "Rotated 90 CCW", "Upside"}
	exif := func(o int) string {
		raw, err := json.Marshal(map[string]string{"Image Orientation": words[o], "Image Make": "x", "EXIF UserComment": fmt.Sprintf("%0900d", 0)})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	type row struct {
		Key     string `parquet:"key"`
		Caption string `parquet:"caption"`
		Exif    string `parquet:"exif"`
		JPG     []byte `parquet:"jpg"`
	}
	type beside struct {
		Key     string `parquet:"key"`
		Caption string `parquet:"caption"`
		Status  string `parquet:"status"`
		EXIF    string `parquet:"EXIF"`
	}
	dir := t.TempDir()
	var inside, joined []string
	var table []row
	var side []beside
	for o := range words {
		key := fmt.Sprintf("%09d", o)
		text, err := json.Marshal(map[string]any{"caption": "cat", "exif": exif(o)})
		if err != nil {
			t.Fatal(err)
		}
		inside = append(inside, key+".png", p, key+".json", string(text))
		joined = append(joined, key+".png", p, key+".txt", "cat")
		table = append(table, row{key, "cat", exif(o), []byte(p)})
		side = append(side, beside{key, "cat", "success", exif(o)})
		write(t, dir, "files/"+key+".png", p)
		write(t, dir, "files/"+key+".json", string(text))
	}
	write(t, dir, "inside.tar", tarOf(t, inside...))
	write(t, dir, "joined.tar", tarOf(t, joined...))
	if err := parquet.WriteFile(filepath.Join(dir, "joined.parquet"), side); err != nil {
		t.Fatal(err)
	}
	if err := parquet.WriteFile(filepath.Join(dir, "table.parquet"), table); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, name := range []string{"inside.tar", "joined.tar", "table.parquet", "files"} {
		f := open(t, filepath.Join(dir, name), Options{})
		if f.Len() != len(words) {
			t.Fatalf("%s: %d rows; %v, %v", name, f.Len(), f.Flaws(), f.Skipped())
		}
		for o := range words {
			content, err := f.Encoded(o)
			if err != nil {
				t.Fatal(err)
			}
			want := images.Oriented([]byte(p), map[bool]int{true: o}[o <= 8])
			if !bytes.Equal(content, want) {
				_, got := images.Unmarked(content)
				t.Errorf("%s: %q gives orientation %d", name, words[o], got)
			}
			if head, err := f.Head(o, 20); err != nil || !bytes.HasPrefix(content, head) && !bytes.Equal(head, content) {
				t.Errorf("%s: head of %q: %v", name, words[o], err)
			}
			if c := f.Columns(o); (c[turnedColumn] != nil) != (o >= 2 && o <= 8) || c["exif"] != nil {
				t.Errorf("%s: columns of %q: %v", name, words[o], c)
			}
			id, err := f.Identity(o)
			if err != nil || ids[name+id] {
				t.Errorf("%s: identity %q, %v", name, id, err)
			}
			ids[name+id] = true
		}
	}
}
