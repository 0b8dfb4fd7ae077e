package scenes

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const benchmark = "../../assets/scenes/128.scenes.json"

func open(t *testing.T, path string) *Renderer {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A sample's pixels are a function of its number: a change of the renderer that changes them must raise Version.
func TestPixelsStay(t *testing.T) {
	r := open(t, benchmark)
	h := sha256.New()
	for _, split := range Splits {
		for i := range int64(40) {
			h.Write(r.Draw(r.Scene(split, i), 64).Pix)
		}
	}
	const want = "8bb5bdf9e98f218a6c6cc764e52e87b981591e91d3c64c7645930aa055e8138c"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the pixels of %d samples have SHA-256 %s, version %d had %s", 3*40, got, Version, want)
	}
}

func TestSampleDependsOnItsNumberAlone(t *testing.T) {
	r := open(t, benchmark)
	first := r.Draw(r.Scene("train", 5), 128)
	for i := range int64(5) {
		r.Draw(r.Scene("eval", i), 128)
	}
	if again := r.Draw(r.Scene("train", 5), 128); !bytes.Equal(first.Pix, again.Pix) {
		t.Error("a sample drawn again has other pixels")
	}
	for _, split := range Splits[1:] {
		if same := r.Draw(r.Scene(split, 5), 128); bytes.Equal(first.Pix, same.Pix) {
			t.Errorf("sample 5 of train and of %s are the same picture", split)
		}
	}
}

// No combination of one split's captions is in the other.
func TestHeldOutCombinations(t *testing.T) {
	r := open(t, benchmark)
	seen := map[string]bool{}
	held := 0
	for i := range int64(20000) {
		s := r.Scene("train", i)
		seen[strings.Join(s.parts(), "/")] = true
	}
	for _, split := range Splits[1:] {
		for i := range int64(3000) {
			s := r.Scene(split, i)
			if name := strings.Join(s.parts(), "/"); seen[name] {
				t.Fatalf("%s sample %d shows %s, which train shows too", split, i, name)
			} else {
				held++
			}
		}
	}
	if len(seen) < 400 || held != 6000 {
		t.Errorf("%d combinations in train, %d samples held out", len(seen), held)
	}
}

// Captions tell what is there, and many pictures share each.
func TestCaptions(t *testing.T) {
	r := open(t, benchmark)
	kinds, coarse := map[string]int{}, map[string]int{}
	const n = 16384
	for i := range int64(n) {
		s := r.Scene("train", i)
		f, k, c := s.Captions()
		if !strings.HasPrefix(f, k+" ") || !strings.HasSuffix(f, backgrounds[s.background].words) {
			t.Fatalf("fine caption %q of kind %q", f, k)
		}
		kinds[k]++
		coarse[c]++
	}
	if len(coarse) > n/100 || len(kinds) > n/8 {
		t.Errorf("%d samples have %d kind and %d coarse captions: too few share one", n, len(kinds), len(coarse))
	}
	s := Scene{Objects: []Object{{concept: 0}, {concept: 1}, {concept: 0}}, background: 10}
	f, k, c := s.Captions()
	if f != "two dogs and a cat on grass" || k != "two dogs and a cat" || c != "three animals" {
		t.Errorf("captions %q, %q, %q", f, k, c)
	}
}

func TestHalf(t *testing.T) {
	r := open(t, benchmark)
	changed := 0
	for i := range int64(60) {
		s := r.Scene("eval", i)
		half := s.Half()
		if len(half.Objects) != len(s.Objects)/2 {
			t.Fatalf("of %d objects %d are left", len(s.Objects), len(half.Objects))
		}
		if !bytes.Equal(r.Draw(s, 64).Pix, r.Draw(half, 64).Pix) {
			changed++
		}
	}
	if changed != 60 {
		t.Errorf("only %d of 60 pictures changed", changed)
	}
}

// Every object is seen: removing one changes many pixels, and things stand below the horizon of a landscape.
func TestObjectsAreSeen(t *testing.T) {
	r := open(t, benchmark)
	for i := range int64(200) {
		s := r.Scene("train", i)
		whole := r.Draw(s, 64)
		for k := range s.Objects {
			less := s
			less.Objects = append(append([]Object{}, s.Objects[:k]...), s.Objects[k+1:]...)
			if n := differ(whole, r.Draw(less, 64)); n < 40 {
				t.Errorf("sample %d: without object %d only %d pixels differ", i, k, n)
			}
		}
		for _, o := range s.Objects {
			if h := backgrounds[s.background].horizon; h > 0 && o.y+o.size/2 < h {
				t.Errorf("sample %d: an object hangs in the sky (feet at %.2f)", i, o.y+o.size/2)
			}
		}
	}
}

func differ(a, b *image.NRGBA) (n int) {
	for i := 0; i < len(a.Pix); i += 4 {
		if !bytes.Equal(a.Pix[i:i+3], b.Pix[i:i+3]) {
			n++
		}
	}
	return n
}

// A sprite drawn upright at its own size and at half of it has the colours of its picture.
func TestSpriteColours(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, SpriteSide, SpriteSide))
	for i := range SpriteSide * SpriteSide {
		img.SetNRGBA(i%SpriteSide, i/SpriteSide, color.NRGBA{200, 100, 50, 255})
	}
	dir := t.TempDir()
	writeSprites(t, filepath.Join(dir, "s.zip"), func(string) image.Image { return img })
	writeSpec(t, filepath.Join(dir, "x.scenes.json"), map[string]any{"scenes": Version, "sprites": "s.zip", "side": 128, "samples": map[string]int{"train": 4}})
	r := open(t, filepath.Join(dir, "x.scenes.json"))
	for _, size := range []float64{0.5, 0.25} {
		s := Scene{Objects: []Object{{x: 0.5, y: 0.5, size: size}}, background: 5}
		if got := r.Draw(s, 128).NRGBAAt(64, 64); got != (color.NRGBA{200, 100, 50, 255}) {
			t.Errorf("size %g: %v in the middle of the sprite", size, got)
		}
	}
}

func writeSprites(t *testing.T, path string, picture func(name string) image.Image) {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, w := range Wanted() {
		name := SpriteName(w.Concept, w.Style, w.Code)
		img := picture(name)
		if img == nil {
			continue
		}
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(f, img); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

func writeSpec(t *testing.T, path string, spec any) {
	t.Helper()
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestBadSpecs(t *testing.T) {
	dir := t.TempDir()
	raw, err := os.ReadFile("../../assets/scenes/sprites.zip")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sprites.zip"), raw, 0o666); err != nil {
		t.Fatal(err)
	}
	good := func(change func(m map[string]any)) map[string]any {
		m := map[string]any{"scenes": Version, "sprites": "sprites.zip", "side": 64, "seed": 1, "samples": map[string]any{"train": 4}}
		change(m)
		return m
	}
	for want, spec := range map[string]map[string]any{
		"version":          good(func(m map[string]any) { m["scenes"] = Version + 1 }),
		"side is 7":        good(func(m map[string]any) { m["side"] = 7 }),
		"unknown field":    good(func(m map[string]any) { m["sidde"] = 7 }),
		"samples is empty": good(func(m map[string]any) { delete(m, "samples") }),
		"split \"test\"":   good(func(m map[string]any) { m["samples"] = map[string]any{"test": 1} }),
		"samples are 0":    good(func(m map[string]any) { m["samples"] = map[string]any{"train": 0} }),
		"want 0 to":        good(func(m map[string]any) { m["samples"] = map[string]any{"train": -1} }),
		"unicorn":          good(func(m map[string]any) { m["concepts"] = []string{"dog", "unicorn"} }),
		"two at least":     good(func(m map[string]any) { m["concepts"] = []string{"dog"} }),
		"looks is -1":      good(func(m map[string]any) { m["looks"] = -1 }),
		"objects is 4":     good(func(m map[string]any) { m["objects"] = 4 }),
		"missing.zip":      good(func(m map[string]any) { m["sprites"] = "missing.zip" }),
		"\"eval\" is empty": good(func(m map[string]any) {
			m["concepts"], m["objects"], m["samples"] = lonely(t), 1, map[string]any{"eval": 4}
		}),
		"x.scenes.json: is no": nil,
	} {
		path := filepath.Join(dir, "x.scenes.json")
		if spec == nil {
			if err := os.WriteFile(path, []byte("\xff not JSON"), 0o666); err != nil {
				t.Fatal(err)
			}
			want = "x.scenes.json"
		} else {
			writeSpec(t, path, spec)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.scenes.json") {
			t.Errorf("want an error that names the file and says %q, got %v", want, err)
		}
	}
	writeSprites(t, filepath.Join(dir, "few.zip"), func(name string) image.Image {
		if strings.HasPrefix(name, "dog/") {
			return nil
		}
		return image.NewNRGBA(image.Rect(0, 0, SpriteSide, SpriteSide))
	})
	writeSpec(t, filepath.Join(dir, "x.scenes.json"), good(func(m map[string]any) { m["sprites"] = "few.zip" }))
	if _, err := Open(filepath.Join(dir, "x.scenes.json")); err == nil || !strings.Contains(err.Error(), "no sprite of a dog") {
		t.Errorf("without dogs: %v", err)
	}
}

// lonely are two concepts of which no picture of one object is held out.
func lonely(t *testing.T) []string {
	t.Helper()
	held := func(concept int) bool {
		for b := range backgrounds {
			if s := (Scene{Objects: []Object{{concept: concept}}, background: b}); s.held() {
				return true
			}
		}
		return false
	}
	var names []string
	for i, c := range concepts {
		if !held(i) {
			names = append(names, noun(c.one))
		}
	}
	if len(names) < 2 {
		t.Fatalf("every concept but %v has a picture that is held out", names)
	}
	return names[:2]
}

func TestFewerObjects(t *testing.T) {
	dir := t.TempDir()
	raw, err := os.ReadFile("../../assets/scenes/sprites.zip")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sprites.zip"), raw, 0o666); err != nil {
		t.Fatal(err)
	}
	writeSpec(t, filepath.Join(dir, "x.scenes.json"), map[string]any{"scenes": Version, "sprites": "sprites.zip", "side": 64, "objects": 1,
		"concepts": []string{"cat", "dog"}, "looks": 1, "samples": map[string]any{"train": 4}})
	r := open(t, filepath.Join(dir, "x.scenes.json"))
	for i := range int64(100) {
		s := r.Scene("train", i)
		if len(s.Objects) != 1 || s.Objects[0].concept > 1 || s.Objects[0].sprite > 1 {
			t.Fatalf("sample %d: %+v", i, s.Objects)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"scenes": 1, "sprites": "x", "side": 64, "samples": {"train": 4}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "x.scenes.json")
		if err := os.WriteFile(path, raw, 0o666); err != nil {
			t.Fatal(err)
		}
		if r, err := Open(path); (r == nil) == (err == nil) {
			t.Error("neither a renderer nor an error, or both")
		}
	})
}
