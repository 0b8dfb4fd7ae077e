package data

import (
	"bytes"
	"image/color"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/data/images"
)

func TestCleanConcept(t *testing.T) {
	for annotation, want := range map[string]string{
		"red apple":                        "red apple",
		"flag: Egypt":                      "flag of egypt",
		"flag: Åland Islands":              "flag of aland islands",
		"flag: Bosnia & Herzegovina":       "flag of bosnia and herzegovina",
		"keycap: #":                        "keycap hash",
		"keycap: 10":                       "keycap 10",
		"family: man, woman, boy":          "family",
		"kiss: man, man":                   "kissing couple",
		"kiss":                             "kissing couple",
		"couple with heart: woman, man":    "couple with heart",
		"man: red hair":                    "man with red hair",
		"woman: bald":                      "bald woman",
		"woman running: facing right":      "woman running facing right",
		"Japanese “free of charge” button": "japanese free of charge button",
		"A button (blood type)":            "a button",
		"UP! button":                       "up button",
		"woman’s hat":                      "woman's hat",
		"piñata":                           "pinata",
		"Mrs. Claus":                       "mrs claus",
	} {
		if got := cleanConcept(annotation); got != want {
			t.Errorf("%q: %q, want %q", annotation, got, want)
		}
	}
}

func TestConceptKind(t *testing.T) {
	for _, c := range []struct{ subgroup, concept, want string }{
		{"food-fruit", "green apple", "apple"},
		{"food-fruit", "pineapple", ""},
		{"food-asian", "fish cake with swirl", "asian food"},
		{"animal-mammal", "polar bear", "bear"},
		{"animal-mammal", "horse face", "horse"},
		{"time", "one-thirty", "clock face"},
		{"heart", "love letter", "heart with a sign"},
		{"transport-ground", "oncoming police car", "police car"},
		{"face-concerned", "astonished face", "surprised face"},
		{"face-concerned", "worried face", "sad face"},
		{"person-sport", "woman surfing", "person surfing"},
		{"person-role", "man cook", "cook"},
		{"person-role", "cook", "cook"},
		{"person-role", "woman in tuxedo", "person in tuxedo"},
		{"person-fantasy", "merman", "merperson"},
		{"person", "woman with red hair", "person with red hair"},
		{"family", "women holding hands", "people holding hands"},
		{"country-flag", "flag of turkey", "country flag"},
	} {
		if got := conceptKind(c.subgroup, c.concept); got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.subgroup, c.concept, got, c.want)
		}
	}
}

// miniSource writes small stand-ins for the three packages.
func miniSource(t *testing.T) string {
	t.Helper()
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
	write(notoList, []byte(`[
		{"unified":"1F34E","image":"1f34e.png","subcategory":"food-fruit","has_img_google":true},
		{"unified":"1F34F","image":"1f34f.png","subcategory":"food-fruit","has_img_google":true},
		{"unified":"1F590-FE0F","image":"1f590-fe0f.png","subcategory":"hand-fingers-open","has_img_google":true,
		 "skin_variations":{"1F3FB":{"unified":"1F590-1F3FB","image":"1f590-1f3fb.png","has_img_google":true},
		 "1F3FB-1F3FC":{"unified":"1F590-1F3FB-1F3FC","image":"x.png","has_img_google":true}}},
		{"unified":"1F3FB","image":"1f3fb.png","subcategory":"skin-tone","has_img_google":true}]`))
	write(openMojiList, []byte(`[{"hexcode":"1F34E","annotation":"red apple"},{"hexcode":"1F34F","annotation":"green apple"},
		{"hexcode":"1F590","annotation":"hand with fingers splayed"},{"hexcode":"1F3FB","annotation":"light skin tone"}]`))
	clear := testPNG(t, 256, 256, plain(color.NRGBA{}))
	for _, name := range []string{"1f34e", "1f34f", "1f590-fe0f", "1f590-1f3fb", "1f3fb"} {
		write(notoImages+"/"+name+".png", clear)
	}
	write(fluentImages+"/1f34e.webp", clear) // decoded by content, not by name
	return dir
}

func TestBuildMini(t *testing.T) {
	src, out := miniSource(t), filepath.Join(t.TempDir(), "mini.parquet")
	stats, err := BuildMini(src, out, MiniOptions{Size: 32})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Rows != 5 || stats.Train+stats.Eval != 5 || stats.Coarse != 3 {
		t.Errorf("%+v", stats)
	}
	set, err := Open(t.Context(), out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ key, caption, kind, coarse string }{
		{"noto/1f34e", "red apple, noto style", "apple, noto style", "fruit, noto style"},
		{"noto/1f34f", "green apple, noto style", "apple, noto style", "fruit, noto style"},
		{"noto/1f590", "hand with fingers splayed, noto style", "", "hand, noto style"},
		{"noto/1f590-1f3fb", "hand with fingers splayed, noto style", "", "hand, noto style"},
		{"fluent-3d/1f34e", "red apple, fluent 3d style", "", "fruit, fluent 3d style"},
	}
	for i, w := range want {
		r := set.Row(i)
		if r.Key != w.key || r.Caption != w.caption || r.Kind != w.kind || r.Coarse != w.coarse {
			t.Errorf("row %d: %+v, want %+v", i, r, w)
		}
	}
	if a, b := set.Row(2), set.Row(3); b.Weight >= a.Weight/4 || a.Split != b.Split {
		t.Errorf("skin tone: weight %v of %v, split %s and %s", b.Weight, a.Weight, b.Split, a.Split)
	}
	pixels, err := set.Image(0, 32)
	if err != nil || pixels[0] != 1 {
		t.Errorf("clear image is not white: %v, %v", pixels[:3], err)
	}
	first, _ := os.ReadFile(out)
	if _, err := BuildMini(src, out, MiniOptions{Size: 32}); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(out); !bytes.Equal(first, second) {
		t.Error("two builds differ")
	}
}

func TestBuildMiniErrors(t *testing.T) {
	for name, c := range map[string]struct {
		file, content, want string
	}{
		"no packages":      {"", "", "scripts/mini_data.sh"},
		"list not JSON":    {notoList, "<html>", notoList},
		"captions no JSON": {openMojiList, "", openMojiList},
		"broken image":     {notoImages + "/1f34f.png", "x", "1f34f.png"},
	} {
		src := t.TempDir()
		if c.file != "" {
			src = miniSource(t)
			if err := os.WriteFile(filepath.Join(src, c.file), []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(t.TempDir(), "mini.parquet")
		if _, err := BuildMini(src, out, MiniOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was left", name)
		}
	}
}

// TestRepositoryImages checks the captioned images that tests read.
func TestRepositoryImages(t *testing.T) {
	const path = "testdata/emoji.parquet"
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 4<<20 {
		t.Errorf("%d bytes, more than 4 MiB", info.Size())
	}
	set, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	splits, styles, coarse := map[string]int{}, map[string]int{}, map[string]int{}
	keys := map[string]bool{}
	pairs := map[[2]string]string{}
	for i := range set.Len() {
		r := set.Row(i)
		splits[r.Split]++
		styles[r.Style]++
		coarse[r.Coarse]++
		if keys[r.Key] {
			t.Errorf("key %s twice", r.Key)
		}
		keys[r.Key] = true
		pair := [2]string{r.Concept, r.Style}
		if split, seen := pairs[pair]; seen && split != r.Split {
			t.Errorf("%v is in both splits", pair)
		}
		pairs[pair] = r.Split
		if !strings.HasSuffix(r.Caption, ", "+r.Style+" style") {
			t.Errorf("%s: caption %q does not name its style", r.Key, r.Caption)
		}
		content, err := set.Encoded(i)
		if err != nil {
			t.Fatal(err)
		}
		if img, err := images.Decode(content); err != nil || img.Width != 64 || img.Height != 64 {
			t.Errorf("%s: %d×%d, %v", r.Key, img.Width, img.Height, err)
		}
	}
	if splits["train"] < 600 || splits["eval"] < 100 || len(splits) != 2 {
		t.Errorf("splits %v", splits)
	}
	if len(styles) != 2 || styles["noto"] < 300 || styles["fluent 3d"] < 300 {
		t.Errorf("styles %v", styles)
	}
	if len(coarse) < 100 {
		t.Errorf("%d coarse captions", len(coarse))
	}
}
