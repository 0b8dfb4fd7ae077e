package data

import (
	"archive/zip"
	"bytes"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"os"
	"path/filepath"

	"fewstep/data/scenes"
	"fewstep/internal/atomicfile"

	xdraw "golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // of the sprites in WebP
)

// BuildSprites writes the zip file of sprites that scenes are composed of, from the unpacked packages in srcDir; it
// returns how many there are. A sprite that a package lacks is left out.
func BuildSprites(srcDir, out string) (int, error) {
	var emoji []miniEmoji
	if err := readJSON(filepath.Join(srcDir, notoList), &emoji); err != nil {
		return 0, err
	}
	noto := map[string]string{}
	for _, e := range emoji {
		if e.HasGoogle {
			noto[normalCode(e.Unified)] = filepath.Join(srcDir, notoImages, e.Image)
		}
	}
	styles, err := miniStyles(srcDir)
	if err != nil {
		return 0, err
	}
	count := 0
	err = atomicfile.Write(out, func(w io.Writer) error {
		z := zip.NewWriter(w)
		for _, s := range scenes.Wanted() {
			path, ok := noto[normalCode(s.Code)], true
			if s.Style == "fluent" {
				path, ok = styles[1].path(normalCode(s.Code), "", true)
			}
			if path == "" || !ok {
				continue
			}
			content, err := spritePNG(path)
			if err != nil {
				return err
			}
			f, err := z.CreateHeader(&zip.FileHeader{Name: scenes.SpriteName(s.Concept, s.Style, s.Code), Method: zip.Store})
			if err != nil {
				return err
			}
			if _, err := f.Write(content); err != nil {
				return err
			}
			count++
		}
		return z.Close()
	})
	return count, err
}

// spritePNG reduces an image to a sprite's size, cut to what is not transparent and centred.
func spritePNG(path string) ([]byte, error) {
	encoded, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	img, _, err := image.Decode(bytes.NewReader(encoded)) // with its transparency, which images.Decode lays on white
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	full := image.NewRGBA(image.Rect(0, 0, img.Bounds().Dx(), img.Bounds().Dy()))
	draw.Draw(full, full.Bounds(), img, img.Bounds().Min, draw.Src)
	seen := image.Rectangle{}
	for y := range full.Rect.Dy() {
		for x := range full.Rect.Dx() {
			if full.RGBAAt(x, y).A > 8 {
				seen = seen.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	if seen.Empty() {
		return nil, fmt.Errorf("%s: wholly transparent", path)
	}
	side := max(seen.Dx(), seen.Dy())
	square := image.NewRGBA(image.Rect(0, 0, side, side))
	at := image.Pt((side-seen.Dx())/2, (side-seen.Dy())/2)
	draw.Draw(square, image.Rectangle{at, at.Add(seen.Size())}, full, seen.Min, draw.Src)
	small := image.NewRGBA(image.Rect(0, 0, scenes.SpriteSide, scenes.SpriteSide))
	xdraw.CatmullRom.Scale(small, small.Bounds(), square, square.Bounds(), xdraw.Src, nil)
	for i, v := range small.Pix { // a cubic filter overshoots: colours never exceed their alpha
		small.Pix[i] = min(v, small.Pix[i|3])
	}
	out := image.NewNRGBA(small.Rect)
	draw.Draw(out, out.Rect, small, image.Point{}, draw.Src)
	var buf bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestCompression}
	if err := enc.Encode(&buf, out); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return buf.Bytes(), nil
}
