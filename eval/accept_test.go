package eval

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/eval/metric"
	"fewstep/eval/report"
)

// valued is a row of one metric whose samples err by themselves.
func valued(name, metric string, v, spread float64) AcceptedRow {
	low, high := v-spread, v+spread
	influences, rng := make([]float32, 64), rand.New(rand.NewPCG(uint64(1000*v), uint64(len(name))))
	for i := range influences {
		influences[i] = float32(spread * 4 * rng.NormFloat64())
	}
	return AcceptedRow{name, []Value{{Metric: metric, Value: v, Low: &low, High: &high, Samples: 64, Influences: influences}}}
}

func TestAcceptanceCriteria(t *testing.T) {
	distance, energy := report.Metric{Name: metric.Whole}, report.Metric{Name: metric.Sharpness, Ideal: 1}
	a := &acceptance{}
	a.clearly("far", distance, valued("floor", metric.Whole, 0.1, 0.01), valued("teacher", metric.Whole, 0.3, 0.01))
	a.clearly("near", distance, valued("floor", metric.Whole, 0.1, 0.01), valued("teacher", metric.Whole, 0.102, 0.01))
	a.clearly("wrong way", distance, valued("floor", metric.Whole, 0.3, 0.01), valued("teacher", metric.Whole, 0.1, 0.01))
	a.clearly("noise", energy, valued("floor", metric.Sharpness, 1.05, 0.01), valued("noisy", metric.Sharpness, 2, 0.01))
	a.clearly("blur", energy, valued("floor", metric.Sharpness, 1.05, 0.01), valued("blurred", metric.Sharpness, 0.4, 0.01))
	a.clearly("as far to the other side", energy, valued("floor", metric.Sharpness, 1.05, 0.01), valued("blurred", metric.Sharpness, 0.95, 0.01))
	a.clearly("lost", energy, valued("floor", metric.Whole, 1.05, 0.01), valued("blurred", metric.Sharpness, 0.95, 0.01))
	teacher := valued("teacher", metric.Whole, 0.1, 0.01)
	a.room(teacher, []AcceptedRow{valued("unguided", metric.Whole, 0.5, 0.01), valued("guided", metric.Whole, 0.19, 0.01)})
	a.room(teacher, []AcceptedRow{valued("unguided", metric.Whole, 0.5, 0.01), valued("guided", metric.Whole, 0.21, 0.01)})
	want := []bool{true, false, false, true, true, false, false, false, true}
	for i, c := range a.Criteria {
		if c.Met != want[i] || c.Text == "" {
			t.Errorf("%+v, want met %v", c, want[i])
		}
	}
	if got := a.Unmet(); got != 5 {
		t.Errorf("%d unmet", got)
	}
	if text := a.Criteria[8].Text; !strings.Contains(text, "×2.10") {
		t.Errorf("room: %s", text)
	}
}

func TestDamages(t *testing.T) {
	const side = 8
	v := make([]float32, side*side*3)
	for i := range v {
		v[i] = float32(i%7)/3.5 - 1
	}
	b := blurred(v, side)
	var want float32 // pixel (0, 0), channel 1: edges repeat
	for _, at := range [][2]int{{0, 0}, {0, 0}, {1, 0}, {0, 0}, {0, 0}, {1, 0}, {0, 1}, {0, 1}, {1, 1}} {
		want += v[(at[1]*side+at[0])*3+1] / 9
	}
	if math.Abs(float64(b[1]-want)) > 1e-6 {
		t.Errorf("blurred to %g, want %g", b[1], want)
	}
	flat := make([]float32, 64*64*3)
	n := noisy(flat, 25, rand.New(rand.NewPCG(1, 2)))
	var squares float64
	for _, x := range n {
		squares += float64(x) * float64(x)
	}
	if d := 127.5 * math.Sqrt(squares/float64(len(n))); math.Abs(d-25) > 1 {
		t.Errorf("noise of %g levels", d)
	}
	got := wrongCaptions([]string{"a", "a", "b", "a", "c", "a"})
	for i, own := range []string{"a", "a", "b", "a", "c", "a"} {
		if got[i] == own {
			t.Errorf("caption %d stayed %s", i, own)
		}
	}
}

// halves are pictures that can be drawn without half of their objects: black below the middle.
type halves struct{ *data.Set }

func (h halves) WithoutHalf(row, resolution int) ([]float32, error) {
	v, err := h.Image(row, resolution)
	for i := len(v) / 2; i < len(v); i++ {
		v[i] = -1
	}
	return v, err
}

// A data set that cannot leave objects out, and a missing network, are criteria that are not met and say why; with one
// that can, the damage is measured like the others.
func TestAcceptMeasuresDamage(t *testing.T) {
	s := tiny(t)
	s.Config.Eval.Samples = 12
	kept := map[string][]byte{}
	s.Save = func(name string, b []byte) error { kept[name] = b; return nil }
	s.Load = func(name string) ([]byte, bool) { b, ok := kept[name]; return b, ok }
	s.Config.Data.Captions = configs.Captions{Fine: 1}
	v, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	accept := func() *Acceptance {
		t.Helper()
		a, err := v.Accept(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	met := func(a *Acceptance, name, metric string) Criterion {
		t.Helper()
		for _, c := range a.Criteria {
			if strings.HasPrefix(c.Name, name) && c.Metric == metric {
				return c
			}
		}
		t.Errorf("there is no criterion %s by %q in %+v", name, metric, a.Criteria)
		return Criterion{}
	}
	a := accept()
	if c := met(a, "half of the objects", ""); c.Met || !strings.Contains(c.Text, "cannot draw its images") {
		t.Errorf("%+v", c)
	}
	if c := met(a, "an independent network", ""); c.Met || !strings.Contains(c.Text, "fetch_nsfwjs") {
		t.Errorf("%+v", c)
	}
	// What cannot be missed in a few images.
	for _, c := range []Criterion{met(a, "blurred 3×3", metric.Sharpness), met(a, "noise of 25", metric.Sharpness)} {
		if !c.Met {
			t.Errorf("%+v", c)
		}
	}
	names := []string{}
	for _, r := range a.Rows {
		names = append(names, r.Name)
	}
	want := "held-out real images, teacher, 2 steps, 4 calls, undistilled, 8 steps, 8 calls, undistilled, 4 steps, 8 calls, blurred 3×3, noise of 25 levels, wrong captions"
	if strings.Join(names, ", ") != want {
		t.Errorf("rows %q", names)
	}
	v.protocol.held.set = halves{v.protocol.held.set.(*data.Set)}
	a = accept()
	if c := met(a, "half of the objects", metric.Whole); !c.Met {
		t.Errorf("%+v", c)
	}
	if text := a.Markdown(); !strings.Contains(text, "| half of the objects missing |") || !strings.Contains(text, "| ✗ | an independent network agrees |") {
		t.Error(text)
	}
}
