package scenes

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"os"
	"slices"
	"strings"
)

// SpriteSide is the side of a sprite in pixels.
const SpriteSide = 64

// Styles are the sets that sprites come from. Captions never name them.
var Styles = []string{"noto", "fluent"}

// A level is one size of a sprite: premultiplied RGBA, four float32 a pixel in 0…1, row by row.
type level struct {
	side int
	pix  []float32
}

// A sprite is a picture with transparency, at full size and at halves of it.
type sprite []level

// Sprites are the pictures of all concepts.
type Sprites struct {
	of     [][]sprite // by concept
	Digest string     // SHA-256 of the file
}

// SpriteName is the path of a sprite inside the zip file: "dog/noto-1f436.png".
func SpriteName(concept int, style, code string) string {
	return strings.ReplaceAll(noun(concepts[concept].one), " ", "-") + "/" + style + "-" + strings.ToLower(code) + ".png"
}

// noun is a name without its article.
func noun(s string) string { return s[strings.IndexByte(s, ' ')+1:] }

// Wanted lists the sprites of all concepts and styles: concept, style, code points.
func Wanted() (out []struct {
	Concept     int
	Style, Code string
}) {
	for i, c := range concepts {
		for _, style := range Styles {
			for _, code := range c.codes {
				out = append(out, struct {
					Concept     int
					Style, Code string
				}{i, style, code})
			}
		}
	}
	return out
}

// OpenSprites reads a zip file of PNG images named by SpriteName, of each concept's first looks code points (0 = all of them).
// Every concept must have one at least.
func OpenSprites(file string, looks int) (*Sprites, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; make it again with scripts/mini_data.sh sprites", file, err)
	}
	sum := sha256.Sum256(raw)
	s := &Sprites{of: make([][]sprite, len(concepts)), Digest: hex.EncodeToString(sum[:])}
	known := map[string]int{} // concept by name of the sprite
	leave := map[string]bool{}
	for _, w := range Wanted() {
		name := SpriteName(w.Concept, w.Style, w.Code)
		known[name] = w.Concept
		leave[name] = looks > 0 && slices.Index(concepts[w.Concept].codes, w.Code) >= looks
	}
	slices.SortFunc(z.File, func(a, b *zip.File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range z.File {
		i, ok := known[f.Name]
		if !ok {
			return nil, fmt.Errorf("%s: %s: no sprite of that name is wanted", file, f.Name)
		}
		if leave[f.Name] {
			continue
		}
		one, err := readSprite(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
		s.of[i] = append(s.of[i], one)
	}
	for i, c := range concepts {
		if len(s.of[i]) == 0 {
			return nil, fmt.Errorf("%s: holds no sprite of %s", file, c.one)
		}
	}
	return s, nil
}

func readSprite(f *zip.File) (sprite, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, err
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if img.Bounds().Dx() != SpriteSide || img.Bounds().Dy() != SpriteSide {
		return nil, fmt.Errorf("is %v, want %d pixels square", img.Bounds().Size(), SpriteSide)
	}
	rgba := image.NewRGBA(image.Rect(0, 0, SpriteSide, SpriteSide)) // premultiplied
	draw.Draw(rgba, rgba.Bounds(), img, img.Bounds().Min, draw.Src)
	top := level{side: SpriteSide, pix: make([]float32, len(rgba.Pix))}
	for i, v := range rgba.Pix {
		top.pix[i] = float32(v) / 255
	}
	s := sprite{top}
	for s[len(s)-1].side > 8 {
		s = append(s, s[len(s)-1].half())
	}
	return s, nil
}

// half averages squares of four pixels.
func (l level) half() level {
	h := level{side: l.side / 2, pix: make([]float32, l.side*l.side)}
	for y := range h.side {
		for x := range h.side {
			for c := range 4 {
				at := (2*y*l.side+2*x)*4 + c
				h.pix[(y*h.side+x)*4+c] = 0.25 * (l.pix[at] + l.pix[at+4] + l.pix[at+l.side*4] + l.pix[at+l.side*4+4])
			}
		}
	}
	return h
}

// at samples the level at (x, y) in 0…side, bilinearly; outside it is transparent.
func (l level) at(x, y float32, out *[4]float32) {
	x, y = x-0.5, y-0.5
	x0, y0 := floor(x), floor(y)
	fx, fy := x-float32(x0), y-float32(y0)
	*out = [4]float32{}
	for dy := range 2 {
		for dx := range 2 {
			xi, yi := x0+dx, y0+dy
			if xi < 0 || yi < 0 || xi >= l.side || yi >= l.side {
				continue
			}
			w := (1 - fx) * (1 - fy)
			switch {
			case dx == 1 && dy == 1:
				w = fx * fy
			case dx == 1:
				w = fx * (1 - fy)
			case dy == 1:
				w = (1 - fx) * fy
			}
			p := l.pix[(yi*l.side+xi)*4:]
			for c := range 4 {
				out[c] += float32(w * p[c])
			}
		}
	}
}

func floor(x float32) int {
	i := int(x)
	if float32(i) > x {
		i--
	}
	return i
}
