package metric

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"fewstep/data"
	"fewstep/engine"
	"fewstep/eval/stats"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/dtypes"
)

const (
	side       = 64
	references = 2000
	measured   = 1000
	captioned  = 96
)

var opened = sync.OnceValues(func() (*xla.Runtime, error) { return xla.Open(xla.Auto, xla.Options{}) })

func open(t *testing.T) (*Network, *data.Set) {
	t.Helper()
	rt, err := opened()
	if err != nil {
		xlatest.Missing(t, err)
	}
	dir := filepath.Join("..", "..", "assets", "mini")
	p, err := pipeline.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(engine.New(rt.Backend, dtypes.Float32, nn.Network), p, 32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Free)
	set, err := data.Open(t.Context(), filepath.Join("..", "..", "assets", "scenes", "demo.scenes.json"), data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return n, set
}

// living are the coarse captions of animals, plants and food.
var living = []string{"an animal", "a fruit", "a dish", "a plant"}

// blur is a 3×3 box, edges repeated.
func blur(v []float32) []float32 {
	out := make([]float32, len(v))
	for y := range side {
		for x := range side {
			for c := range 3 {
				sum := float32(0)
				for dy := -1; dy <= 1; dy++ {
					for dx := -1; dx <= 1; dx++ {
						yy, xx := min(max(y+dy, 0), side-1), min(max(x+dx, 0), side-1)
						sum += v[(yy*side+xx)*3+c]
					}
				}
				out[(y*side+x)*3+c] = sum / 9
			}
		}
	}
	return out
}

// TestDistancesSeeDamage: what makes images worse must make every distance clearly worse than that of real images
// from other real images.
func TestDistancesSeeDamage(t *testing.T) {
	n, set := open(t)
	rng := rand.New(rand.NewPCG(7, 0))
	rows := rng.Perm(set.Len())
	features := func(rows []int, change func([]float32) []float32) []Features {
		images := make([][]float32, len(rows))
		for i, r := range rows {
			v, err := set.Image(r, side)
			if err != nil {
				t.Fatal(err)
			}
			if change != nil {
				v = change(slices.Clone(v))
			}
			images[i] = v
		}
		f, err := n.Features(images, side)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	ruler, err := NewRuler(features(rows[:references], nil))
	if err != nil {
		t.Fatal(err)
	}
	rest := rows[references:]
	real := features(rest[:measured], nil)

	// Animals, plants and food are more than half of the images; the others are gone.
	var half []int
	for _, r := range rest {
		if len(half) < measured && slices.Contains(living, set.Row(r).Coarse) {
			half = append(half, r)
		}
	}
	if len(half) < measured*9/10 {
		t.Fatalf("only %d images of half of the concepts", len(half))
	}
	damaged := map[string][]Features{
		"blur":       features(rest[:measured], blur),
		"blur twice": features(rest[:measured], func(v []float32) []float32 { return blur(blur(v)) }),
		"noise": features(rest[:measured], func(v []float32) []float32 {
			for i := range v {
				v[i] += float32(rng.NormFloat64() * 25 / 127.5)
			}
			return v
		}),
		"half of the concepts": features(half, nil),
	}
	for _, m := range []struct {
		name    string
		measure func([]Features, stats.Resampling) (stats.Interval, error)
	}{{Whole, ruler.Whole}, {Patch, ruler.Patch}} {
		floor, err := m.measure(real, stats.Resampling{Resamples: 100, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: real %.4f [%.4f, %.4f]", m.name, floor.Value, floor.Low, floor.High)
		for name, f := range damaged {
			iv, err := m.measure(f, stats.Resampling{Resamples: 100, Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			if m.name == Patch && name == "half of the concepts" {
				continue // a patch shows texture more than things
			}
			if m.name == Whole && name == "blur" {
				continue // a whole scene's outlines are soft: it takes two
			}
			t.Logf("%s: %s %.4f [%.4f, %.4f]", m.name, name, iv.Value, iv.Low, iv.High)
			if iv.Low <= floor.High {
				t.Errorf("%s of %s is %.4f [%.4f, %.4f], not clearly worse than that of real images, %.4f [%.4f, %.4f]",
					m.name, name, iv.Value, iv.Low, iv.High, floor.Value, floor.Low, floor.High)
			}
		}
	}
}

func TestScoreSeesWrongCaptions(t *testing.T) {
	n, set := open(t)
	var images [][]float32
	var captions []string
	for k := range captioned {
		r := k * set.Len() / captioned
		v, err := set.Image(r, side)
		if err != nil {
			t.Fatal(err)
		}
		images, captions = append(images, v), append(captions, set.Row(r).Caption)
	}
	f, err := n.Features(images, side)
	if err != nil {
		t.Fatal(err)
	}
	text, err := n.Text(captions)
	if err != nil {
		t.Fatal(err)
	}
	score := func(shift int) stats.Interval {
		v := make([]float64, len(f))
		for i := range f {
			v[i] = Similarity(f[i].Whole.Embedding, text[(i+shift)%len(text)])
		}
		iv, err := stats.MeanInterval(v, stats.Resampling{Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		return iv
	}
	right, wrong := score(0), score(captioned/2+1)
	t.Logf("right %.2f [%.2f, %.2f], wrong %.2f [%.2f, %.2f]", right.Value, right.Low, right.High, wrong.Value, wrong.Low, wrong.High)
	if wrong.High >= right.Low || wrong.Value > right.Value/2 {
		t.Errorf("CLIP score is %v with the images' captions and %v with others", right, wrong)
	}
}

func TestFeaturesDoNotDependOnTheBatch(t *testing.T) {
	n, set := open(t)
	var images [][]float32
	for r := range 5 {
		v, err := set.Image(r, side)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, v)
	}
	all, err := n.Features(images, side)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := n.Features(images[3:4], side)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range all[3].Patch.Texture {
		if math.Abs(v-alone[0].Patch.Texture[k]) > 1e-5 {
			t.Errorf("texture %d is %g in a batch and %g alone", k, v, alone[0].Patch.Texture[k])
		}
	}
}

func TestBadImages(t *testing.T) {
	n, _ := open(t)
	if _, err := n.Features([][]float32{make([]float32, 7)}, side); err == nil {
		t.Error("an image of 7 values was measured")
	}
	bad := make([]float32, side*side*3)
	bad[5] = float32(math.NaN())
	if _, err := n.Features([][]float32{bad}, side); err == nil {
		t.Error("an image that is not numbers was measured")
	}
	if _, err := n.Features(nil, 50); err == nil {
		t.Error("images of 50 pixels went into an encoder of 64")
	}
	if _, err := NewRuler(make([]Features, 3)); err == nil {
		t.Error("three images made a ruler")
	}
}
