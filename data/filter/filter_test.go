package filter

import (
	"errors"
	"math"
	"strings"
	"testing"

	"fewstep/data/images"
)

func row(columns map[string]any) Row {
	return Row{Key: "k1", Caption: "a red apple", Columns: columns,
		Image:     func() (images.Info, error) { return images.Info{Format: "JPEG", Width: 1200, Height: 800}, nil },
		Bytes:     func() (int, error) { return 5000, nil },
		Sharpness: func() (float64, error) { return 150, nil }}
}

func TestKeep(t *testing.T) {
	laion := map[string]any{"AESTHETIC_SCORE": 5.6, "punsafe": 0.05, "WIDTH": int64(4000), "url": "https://x/y.jpg", "ok": true}
	coyo := map[string]any{"aesthetic_score_laion_v2": 5.4, "watermark_score": 0.2}
	for text, want := range map[string][2]any{
		"AESTHETIC_SCORE >= 5.5 and punsafe < 0.1":    {true, ErrLacks},
		"aesthetic >= 5.5":                            {true, false},
		"Aesthetic_Score_LAION_v2 > 5 && unsafe < 1":  {true, ErrLacks},
		"watermark < 0.5":                             {ErrLacks, true},
		"min(width, height) >= 1024":                  {false, false},
		"width > 1000 and pixels == 960000":           {true, true},
		"ratio > 1.4 and ratio < 1.6":                 {true, true},
		"caption contains \"apple\" and words == 3":   {true, true},
		"sharpness > 100 and bytes > 4000":            {true, true},
		"format == \"JPEG\" and key startsWith \"k\"": {true, true},
		"ok":                     {true, ErrLacks},
		"url matches \"^https\"": {true, ErrLacks},
		"not (aesthetic < 5.5)":  {true, false},
	} {
		f, err := Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for i, columns := range []map[string]any{laion, coyo} {
			keep, err := f.Keep(row(columns))
			if e, isError := want[i].(error); isError {
				if !errors.Is(err, e) {
					t.Errorf("%s of %v: %v, %v, want %v", text, columns, keep, err, e)
				}
			} else if err != nil || keep != want[i] {
				t.Errorf("%s of %v: %v, %v, want %v", text, columns, keep, err, want[i])
			}
		}
	}
	for _, text := range []string{"", "aesthetic >", "aesthetic = 5", "nothing("} {
		if _, err := Compile(text); err == nil || !strings.Contains(err.Error(), "filter") {
			t.Errorf("%q: %v", text, err)
		}
	}
	f, err := Compile("url > 5")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Keep(row(laion)); err == nil || errors.Is(err, ErrLacks) {
		t.Errorf("%v", err)
	}
	for name, texts := range Recipes {
		for _, text := range texts {
			if _, err := Compile(text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// OpenCV's cv2.Laplacian(grey, CV_64F).var() differs at the border alone; a checkerboard's is known.
func TestSharpness(t *testing.T) {
	m := images.New(8, 8)
	for i := range 64 {
		if (i%8+i/8)%2 == 0 {
			for c := range 3 {
				m.Pix[3*i+c] = 255
			}
		}
	}
	if got, want := Sharpness(m, 8), 1020.0*1020; math.Abs(got-want) > 1 {
		t.Errorf("%g, want %g", got, want)
	}
	if Sharpness(images.New(8, 8), 8) != 0 || Sharpness(images.New(2, 9), 8) != 0 {
		t.Error("a flat image is sharp")
	}
	// The same picture at twice the size is as sharp, because it is measured at the size of training.
	small, large := images.New(64, 48), images.New(128, 96)
	for _, p := range []*images.RGB{&small, &large} {
		for y := range p.Height {
			for x := range p.Width {
				v := uint8(128 + 100*math.Sin(float64(x)/float64(p.Width)*20)*math.Cos(float64(y)/float64(p.Height)*17))
				for c := range 3 {
					p.Pix[3*(y*p.Width+x)+c] = v
				}
			}
		}
	}
	a, b, raw := Sharpness(small, 48), Sharpness(large, 48), Sharpness(large, 0)
	if math.Abs(a-b) > 0.1*a || raw > 0.3*a {
		t.Errorf("%g at the size of training, %g of twice the size, %g as it is", a, b, raw)
	}
}

// The paper's filters leave out what is small, plain, oblong or blurred, each by its own filter.
func TestPaperRecipe(t *testing.T) {
	image := func(width, height int, aesthetic any, sharpness float64) Row {
		return Row{Key: "a", Columns: map[string]any{"aesthetic_score_laion_v2": aesthetic},
			Image:     func() (images.Info, error) { return images.Info{Width: width, Height: height}, nil },
			Sharpness: func() (float64, error) { return sharpness, nil }}
	}
	for want, row := range map[string]Row{
		"": image(1300, 1100, 5.6, 101), "min(width, height) > 1024": image(2000, 1024, 9.0, 900), "aesthetic > 5.5": image(1100, 1100, 5.5, 900),
		"max(width, height) <= 1.34 * min(width, height)": image(1500, 1100, 6.0, 900), "sharpness > 100": image(1100, 1100, 6.0, 99),
	} {
		by := ""
		for _, text := range Recipes["paper"] {
			f, err := Compile(text)
			if err != nil {
				t.Fatal(err)
			}
			keep, err := f.Keep(row)
			if err != nil {
				t.Fatal(text, err)
			}
			if !keep {
				by = text
				break
			}
		}
		if by != want {
			t.Errorf("removed by %q, want %q", by, want)
		}
	}
}
