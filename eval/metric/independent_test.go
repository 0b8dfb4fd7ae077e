package metric

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/data"
	"fewstep/data/images"
	"fewstep/engine"
	"fewstep/eval/stats"
	"fewstep/model/inception"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"

	"fewstep/internal/xla/xlatest"
)

// TestIndependentNetworkSeesDamage measures damaged images of the mini data set in the features of the pretrained
// network, where it has been fetched (scripts/fetch_nsfwjs.py) and FEWSTEP_SLOW_TESTS is set: it looks at 1,000 images,
// two minutes on two cores.
func TestIndependentNetworkSeesDamage(t *testing.T) {
	if os.Getenv("FEWSTEP_SLOW_TESTS") == "" {
		t.Skip("FEWSTEP_SLOW_TESTS is not set")
	}
	rt, err := opened()
	if err != nil {
		xlatest.Missing(t, err)
	}
	s, err := FindStandard("mini")
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenMeter(engine.New(rt.Backend, dtypes.Float32, nn.Network), s, Sources{Inception: inception.NSFWJS.Name}, 20)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	set, err := data.Open(t.Context(), filepath.Join("..", "..", "data", "testdata", "emoji.parquet"), data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const count, side = 200, 64
	rng := rand.New(rand.NewPCG(7, 0))
	rows := rng.Perm(set.Len())
	look := func(rows []int, change func([]float32) []float32) []Look {
		all := make([]images.RGB, len(rows))
		for i, r := range rows {
			v, err := set.Image(r, side)
			if err != nil {
				t.Fatal(err)
			}
			if change != nil {
				v = change(v)
			}
			if all[i], err = images.FromUnit(v, side, side); err != nil {
				t.Fatal(err)
			}
		}
		looks, err := m.Look(all)
		if err != nil {
			t.Fatal(err)
		}
		return looks
	}
	if err := m.Refer(look(rows[:count], nil)); err != nil {
		t.Fatal(err)
	}
	rest := rows[count : 2*count]
	measure := func(name string, looks []Look) map[string]stats.Interval {
		results, err := m.Results(looks, make([]string, len(looks)), nil, stats.Resampling{Resamples: 50})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]stats.Interval{}
		for _, r := range results {
			t.Logf("%-28s %-34s %8.4f [%.4f, %.4f]", name, r.Name, r.Value, r.Low, r.High)
			out[r.Name] = r.Interval
		}
		return out
	}
	floor := measure("other real images", look(rest, nil))
	damaged := map[string][]Look{
		"blurred 3×3":       look(rest, blur),
		"blurred 3×3 twice": look(rest, func(v []float32) []float32 { return blur(blur(v)) }),
		"noise of 25 levels": look(rest, func(v []float32) []float32 {
			for i := range v {
				v[i] += float32(rng.NormFloat64() * 25 / 127.5)
			}
			return v
		}),
	}
	for name, looks := range damaged {
		for metric, iv := range measure(name, looks) {
			if strings.HasPrefix(metric, "FD(nsfwjs-inception)") && iv.Low <= floor[metric].High {
				t.Errorf("%s of images with %s is %.3f [%.3f, %.3f], not clearly worse than real images' %.3f [%.3f, %.3f]",
					metric, name, iv.Value, iv.Low, iv.High, floor[metric].Value, floor[metric].Low, floor[metric].High)
			}
		}
	}
}
